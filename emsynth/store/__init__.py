"""The store of a data set: Zarr arrays, clean fields, and a manifest of every finished part."""

from emsynth.store.dataset import Store as Store
from emsynth.store.dataset import join as join
from emsynth.store.dataset import open_store as open_store
from emsynth.store.group import as_kept as as_kept
from emsynth.store.group import checksums as checksums
from emsynth.store.group import create as create
from emsynth.store.group import describe as describe
from emsynth.store.group import open_dataset as open_dataset
from emsynth.store.group import read_field as read_field
from emsynth.store.group import read_kept as read_kept
from emsynth.store.group import read_sample as read_sample
from emsynth.store.group import verify as verify
from emsynth.store.group import ways_out as ways_out
from emsynth.store.group import write_field as write_field
from emsynth.store.group import write_shard as write_shard
