"""The files of leases are where the tests of this package look at files."""

from tests.pure.ipam.conftest import folder, store  # noqa: F401 (fixtures)
