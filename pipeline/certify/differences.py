"""What stops a build: a row whose ids are not those of the serving stack."""

from collections.abc import Mapping

from schemas.errors import DatasetError
from schemas.manifest import Certificate


def refuse_differences(certificate: Certificate, urls: Mapping[int, str], *, allowed: bool) -> None:
    """Raises DatasetError for a difference that the config does not allow. `urls` are the sources', by index."""
    first = certificate.first_difference
    if first is None or allowed:
        return
    unit = "token" if certificate.level == "ids" else "character"
    sides = f" they are {first.found} here, {first.expected} there" if certificate.level == "ids" else ""
    raise DatasetError(
        f"certify: {certificate.differences} of {certificate.compared} rows that were compared are not what "
        f"{certificate.oracle} {certificate.versions[certificate.oracle]} makes of them. The first is "
        f"{urls[first.source]} at {first.position}: from {unit} {first.index} on{sides}. Nothing is published. "
        "`packline preview` shows our tokens; to see both, build into another folder with "
        "--set allow_differences=true and run `packline certify` on it"
    )
