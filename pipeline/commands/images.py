"""Commands that bring images to the pipeline and take features, encoders and generated images from it."""

import argparse
import os
from pathlib import Path

from pipeline.commands import Work


def fetch(parser: argparse.ArgumentParser) -> Work:
    """Download a published data set into data/NAME and verify it; `dataset.path` is then that folder.

    There are cifar10, cifar100, stl10, svhn and tiny-imagenet; and digits, a folder of pictures for `transfer`.
    """
    parser.add_argument("name", metavar="NAME")

    def work(asked: argparse.Namespace) -> None:
        from pipeline.core.progress import log
        from pipeline.data import fetch

        log(f"path: {fetch.fetch(asked.name)}")

    return work


def dataset(parser: argparse.ArgumentParser) -> Work:
    """Look at a folder of pictures, and write the parameters that fit it into params.yaml; then run `dvc repro`.

    Prints what is there (classes, sizes, copies, what cannot be read) and draws dataset.png, a contact sheet.

      leaven dataset data/mine                               class folders, or train/ and test/ with them
      leaven dataset data/mine --labels labels.csv           a table of files and labels in the folder
      leaven dataset cifar10                                 a published set, after `leaven fetch cifar10`
    """
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of pictures")
    parser.add_argument("--labels", metavar="CSV", help="a file in the folder: a header, and a line for each picture")
    parser.add_argument("--label-column", metavar="NAME", help="its column of labels, where there are several")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="height and width that pictures are brought to")
    parser.add_argument("--channels", type=int, choices=(1, 3), help="1 grey, 3 colour")
    parser.add_argument("--resize", choices=("crop", "pad", "stretch"), help="how a picture becomes square")
    parser.add_argument("--dry-run", action="store_true", help="write nothing into params.yaml")

    def work(asked: argparse.Namespace) -> None:
        from pipeline.run import survey

        wish = survey.Wish(asked.labels, asked.label_column, asked.size, asked.channels, asked.resize)
        survey.propose(asked.folder, wish, write=not asked.dry_run)

    return work


def embed(parser: argparse.ArgumentParser) -> Work:
    """Write the features of a folder of pictures, or of the images of an HDF5 file, by the finished encoder.

    leaven embed ~/pictures features.npy                   names in features.names.json
    leaven embed data/real/images.h5 features.h5           or .parquet
    """
    parser.add_argument("source", type=Path, metavar="IN", help="a folder of pictures, or an HDF5 file with `images`")
    parser.add_argument("out", type=Path, metavar="OUT", help="ends in .npy, .h5 or .parquet")
    parser.add_argument("--encoder", type=Path, default=Path("data/encoder"), metavar="FOLDER", help="data/encoder")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--skip", action="store_true", help="leave out pictures that cannot be read")

    def work(asked: argparse.Namespace) -> None:
        from pipeline.core import devices
        from pipeline.core.progress import log
        from pipeline.params.schema import Compute
        from pipeline.release import embed

        if fault := devices.lacking(asked.device, "--device", "leave it out"):
            raise fault
        threads = os.cpu_count() or 1
        compute = Compute(device=asked.device, precision="fp32", threads=threads, compile=False)
        n, width = embed.embed(asked.encoder, asked.source, asked.out, compute, asked.skip)
        log(f"{asked.out}: features of {n:,} images, {width:,} numbers each")

    return work


def export(parser: argparse.ArgumentParser) -> Work:
    """Write the finished encoder as a file or folder that other programs load.

    leaven export encoder.pt2                              torch.export; torch alone runs it
    leaven export encoder.onnx                             ONNX; needs `pip install -e '.[export]'`
    leaven export mine                                     a folder for the Hugging Face hub, with a model card
    """
    parser.add_argument("out", type=Path, metavar="OUT", help="ends in .pt2 or .onnx, or is a folder")
    parser.add_argument("--encoder", type=Path, default=Path("data/encoder"), metavar="FOLDER", help="data/encoder")

    def work(asked: argparse.Namespace) -> None:
        from pipeline.core.progress import log
        from pipeline.release import export

        width = export.export(asked.encoder, asked.out)
        log(f"{asked.out}: images in, {width:,} numbers each out")

    return work


def sample(parser: argparse.ArgumentParser) -> Work:
    """Sample shards of the generated images into the store, beside others that do; `dvc repro` finds them there.

    Start as many as you like, in any order, on whatever machine sees the clone and the store; each shard is made once.
    The generator must be there: `dvc repro generator`.

      leaven sample                                          what inflation.ratio asks for
      leaven sample --shards 0-179                           these, also beyond what is asked for
      leaven sample --shards $SLURM_ARRAY_TASK_ID            one, in each task of an array
    """
    parser.add_argument("--shards", metavar="A-B", help="from number A to number B, or one number; 0 is the first")

    def work(asked: argparse.Namespace) -> None:
        from pipeline.core.progress import log
        from pipeline.run import sample

        log(sample.sample(asked.shards))

    return work
