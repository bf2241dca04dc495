"""Results: rows joined; files whole or not at all, of the same bytes for the same content, refused when damaged."""

import errno
import hashlib
import io
import os
import tempfile
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import h5py
import numpy as np
import xarray as xr

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "xarray")  # whose versions results name
_SEAL = hashlib.sha256().digest_size
_SMALL = 2**12  # bytes of an array that is not worth compressing
_NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable. "
# What stands in a file for its dimensions, beside the attributes of the dataset.
_DIMENSIONS = "CLASS NAME DIMENSION_LIST REFERENCE_LIST _Netcdf4Dimid _Netcdf4Coordinates _NCProperties".split()


def along(dim: str, values: list, rows: list[dict]) -> xr.Dataset:
    """
    Join one row of measures for each of *values* along *dim*, as xarray.concat does in nine times as long.

    All *rows* have the same names; each value is a number, or dimensions and an array, or a coordinate that all rows
    share.
    """
    first = xr.Dataset(rows[0])
    joined = {
        name: ((dim, *one.dims), np.stack([row[name][1] if one.dims else row[name] for row in rows]))
        for name, one in first.data_vars.items()
    }
    return xr.Dataset(joined, {dim: values, **first.coords})


def save_bytes(content: bytes, path: str | Path) -> None:
    """
    Write *content* to *path* whole or not at all: a draft in the same folder, then a move into place.

    If it cannot be written (a full disk, say), what stood at *path* before is still there.
    """
    path, draft = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, 0o644)  # mkstemp's 0600 would keep colleagues out
        os.replace(draft, path)
    except OSError as error:
        mend = "make it writable" if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) else "make room"
        says = f"{path} could not be written ({error.strerror}): nothing was lost; {mend} and run again."
        raise OSError(error.errno, says) from None
    finally:
        if draft is not None:
            Path(draft).unlink(missing_ok=True)


def save_dataset(dataset: xr.Dataset, path: str | Path) -> None:
    """
    Write *dataset* to *path* as NetCDF, compressed, sealed with the SHA-256 of its bytes, by :func:`save_bytes`.

    The file is made in memory, since the HDF5 library is not safe against a full disk. The seal stands behind the end
    that HDF5 reads to: its own checksums leave scalars and attributes out.
    """
    content = _netcdf(dataset)
    save_bytes(content + hashlib.sha256(content).digest(), path)


def _netcdf(dataset: xr.Dataset) -> bytes:
    """Return a NetCDF file; h5netcdf takes six times as long for it, and netCDF4 would write the time into it."""
    plain = dataset[sorted(dataset.variables)].drop_encoding()  # as made, and as loaded: the same bytes
    variables, attributes = xr.conventions.encode_dataset_coordinates(plain)
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file.attrs.update(sorted(attributes.items()))
        for name, variable in variables.items():
            encoded = xr.conventions.encode_cf_variable(variable, name=name)
            values, how = encoded.values, {}
            if values.dtype.kind in "OU":
                values, how = values.astype(object), {"dtype": h5py.string_dtype()}
            elif values.nbytes > _SMALL:
                how = {"compression": "gzip", "compression_opts": 4, "shuffle": True}
            written = file.create_dataset(name, data=values, **how)
            for key, value in sorted(encoded.attrs.items()):
                written.attrs[key] = value if isinstance(value, str) else np.atleast_1d(value)
            if variable.dims == (name,):
                written.make_scale(name)
        for name, size in sorted(plain.sizes.items()):
            if name not in variables:
                file.create_dataset(name, (size,), ">f4").make_scale(f"{_NO_VARIABLE}{size:10d}")
        for name, variable in variables.items():
            for axis, dim in enumerate(variable.dims):
                if dim != name:
                    file[name].dims[axis].attach_scale(file[dim])
    return memory.getvalue()


def load_dataset(path: str | Path) -> xr.Dataset:
    """Read a result file into memory; refuse one that is damaged or was not written by :func:`save_dataset`."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no result file {path}: `make book` computes the fresh ones.")
    content = path.read_bytes()
    if hashlib.sha256(content[:-_SEAL]).digest() != content[-_SEAL:]:
        raise ValueError(
            f"{path} is not a whole result file ({len(content)} bytes, and they do not end in their digest): "
            "delete it and run the command again."
        )
    with h5py.File(io.BytesIO(content[:-_SEAL])) as file:
        variables = {name: found for name, values in file.items() if (found := _variable(file, name, values))}
        return xr.decode_cf(xr.Dataset(variables, attrs=_attributes(file.attrs))).load()


def _variable(file: h5py.File, name: str, values: h5py.Dataset) -> tuple | None:
    """Return dimensions, values and attributes of a variable; h5netcdf does so too, in six times as long."""
    about, own = values.attrs, []
    if "CLASS" in about:
        if about["NAME"].startswith(_NO_VARIABLE.encode()):
            return None
        own = [name]  # a coordinate is the scale of its own dimension
    scales = about["DIMENSION_LIST"] if "DIMENSION_LIST" in about else []
    dims = [h5py.h5r.get_name(scale, file.id).decode().strip("/") for (scale, *_) in scales] or own
    return dims, (values.asstr() if h5py.check_string_dtype(values.dtype) else values)[()], _attributes(about)


def _attributes(about: h5py.AttributeManager) -> dict:
    """Return the attributes of a file or a variable; NetCDF keeps a single number as an array of one."""
    found = {name: about[name] for name in about if name not in _DIMENSIONS}
    return {name: value[0] if np.shape(value) == (1,) else value for name, value in found.items()}


def digest(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def largest_difference(first: xr.Dataset, second: xr.Dataset) -> tuple[float, str]:
    """
    Return the largest absolute difference between two result sets over the values that both hold, and its variable.

    Equal infinities, or NaN on both sides, differ by 0; NaN on one side only differs by infinity.
    """
    first, second = xr.align(first, second, join="inner")
    worst, where, compared = 0.0, "", 0
    for name in first.data_vars:
        if name in second and first[name].dtype.kind in "biuf":
            a, b = first[name].values.astype(float), second[name].values.astype(float)
            compared += a.size
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            with np.errstate(invalid="ignore"):
                gap = np.where(same, 0.0, np.nan_to_num(np.abs(a - b), nan=np.inf, posinf=np.inf))
            if gap.size and gap.max() > worst:
                worst, where = float(gap.max()), name
    if compared == 0:
        raise ValueError("The two result sets have no variable, seed or level in common: there is nothing to compare.")
    return worst, where


@cache
def package_versions() -> dict[str, str]:
    """Return the versions of those of :data:`PACKAGES` that are installed, without what names a build."""
    out = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            out[name] = version(name).partition("+")[0]
    return out
