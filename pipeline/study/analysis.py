"""What came out of a study, from its CSV alone: means, paired differences with intervals, best strengths, rankings."""
