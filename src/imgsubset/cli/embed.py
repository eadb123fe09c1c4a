"""imgsubset embed: the moments of a source, or of a piece of it, into the cache."""

from __future__ import annotations

from pathlib import Path

import click

from imgsubset.cli import options as opt
from imgsubset.cli.output import Command, Output
from imgsubset.options import Options
from imgsubset.results.as_json import RECORD_KEYS, describe_embed_result
from imgsubset.results.as_text import embed_summary
from imgsubset.tasks.embed import embed, parse_shard


@click.command("embed", cls=Command, short_help="Decode a source, or a piece of it, into the cache.")
@click.argument("source", metavar="SRC", type=opt.PATH)
@click.option("--shard", metavar="i/K", default="1/1", show_default=True,
              help="Which piece, and of how many: 3/8 is the third of eight.")  # fmt: skip
@opt.add_options(opt.MATCH_TERM, opt.FILTERS, opt.EXTRACTION, opt.CACHE, opt.STRICT)
@opt.add_options(opt.output_options(*RECORD_KEYS["embedded"]))
def embed_command(source: Path, shard: str, options: Options, out: Output) -> None:
    """Decode the images of SRC, or a piece of them, and keep their moments in the cache.

    \b
    imgsubset embed photos --shard 3/8
    imgsubset embed photos --shard $SLURM_ARRAY_TASK_ID/100 --cache /shared/cache

    A later `select` with the same options about features, on the same kind of device, takes them from there and decodes
    nothing. Pieces may be done at once, on machines that share the folder of the cache; what is there already is not
    done again, so that a piece that was cut off is started again by the same command.
    """
    parse_shard(shard)
    listing = opt.open_source(source)
    with out.bars() as bars:
        embedded = embed(listing, options, shard=shard, progress=bars)
    out.show(describe_embed_result(embedded), embed_summary(embedded, out.verbose))
