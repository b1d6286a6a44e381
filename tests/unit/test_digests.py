"""Digests keep their values: committed splits, manifests and sampled tokens hold them."""

from polytune.digests import file_digest, number_from, short_digest


def test_values_stay(tmp_path):
    """SHA-256 and BLAKE2b of "abc" from FIPS 180-2 (appendix B.1) and by `b2sum -l` of coreutils."""
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(path) == sha and short_digest(b"abc") == sha[:16]
    little_ended = {4: "63906248", 7: "d5355e84cd8e92", 8: "d8bb14d833d59559"}
    for size, hexadecimal in little_ended.items():
        assert number_from(b"abc", size) == int.from_bytes(bytes.fromhex(hexadecimal), "little")
    assert number_from(b"abc", 8, person=b"vllm") == 0xB1BB5F207C93E399
