"""Leases are found by their indexes exactly as a look at all of them would find them."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from clusterhost.service.addresses import lease_key
from clusterhost.service.leasetable import LeaseTable
from clusterhost.store.rows import LeaseRow

NETWORKS, DOMAINS = (b"n" * 16, b"m" * 16), (b"", b"a" * 16, b"b" * 16)
MACS = ("", "02:00:00:00:00:01", "02:00:00:00:00:02")


def row(network, mac, family, domain):
    return LeaseRow(lease_key(network, mac, family), network, mac, family, "", domain=domain)


ROWS = st.builds(
    row,
    st.sampled_from(NETWORKS),
    st.sampled_from(MACS),
    st.sampled_from([0, 4, 6]),
    st.sampled_from(DOMAINS),
)
CHANGES = st.lists(st.tuples(st.booleans(), ROWS), max_size=30)


@given(CHANGES)
def test_each_index_agrees_with_all_rows(changes):
    table, rows = LeaseTable(), {}
    for comes, one in changes:
        if comes:
            table.put(one)
            rows[one.key] = one
        else:
            table.drop(one.key)
            rows.pop(one.key, None)
    assert list(table.values()) == list(rows.values())
    assert len(table) == len(rows)
    for network in NETWORKS:
        found = table.of_network(network)
        assert {one.key: one for one in found} == {k: v for k, v in rows.items() if v.network == network}
    for domain in DOMAINS[1:]:
        found = table.of_domain(domain)
        assert {one.key: one for one in found} == {k: v for k, v in rows.items() if v.domain == domain}
    used = {one.mac for one in rows.values() if one.mac and one.domain}
    assert set(table.macs_in_use()) == used
    assert all((table.user(mac) is not None) == (mac in used) for mac in MACS)


def test_a_row_that_changes_hands_is_found_at_its_new_domain_alone():
    one = row(NETWORKS[0], MACS[1], 4, DOMAINS[1])
    table = LeaseTable([one])
    table.put(replace(one, domain=DOMAINS[2]))
    assert table.of_domain(DOMAINS[1]) == []
    assert [each.domain for each in table.of_domain(DOMAINS[2])] == [DOMAINS[2]]
    table.put(replace(one, domain=b""))
    assert table.of_domain(DOMAINS[2]) == []
    assert table.user(MACS[1]) is None
