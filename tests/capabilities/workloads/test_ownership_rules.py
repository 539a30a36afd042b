"""What becomes of objects whose owners go."""

from underway.capabilities.workloads.rules import ownership as rules


def node(uid: str, *owners: str, blocks: bool = True, **more: object) -> rules.Node:
    refs = tuple(rules.Owner(each, "v1", "Thing", each, blocks) for each in owners)
    return rules.Node(uid, "v1", "Thing", "default", uid, refs, **more)  # type: ignore[arg-type]


def graph(*nodes: rules.Node) -> rules.Graph:
    made = rules.Graph()
    for each in nodes:
        made.put(each)
    return made


def test_an_object_with_an_owner_stays():
    known = graph(node("a"), child := node("b", "a"))
    assert rules.decide(known, child, []) == rules.Nothing()


def test_an_owner_that_nobody_has_seen_counts_as_present_until_it_is_known_to_be_absent():
    known = graph(child := node("b", "a"))
    assert rules.decide(known, child, []) == rules.Nothing()
    assert rules.decide(known, child, ["a"]) == rules.Delete("Background")


def test_of_two_owners_the_absent_one_is_struck_off():
    known = graph(node("a"), child := node("c", "a", "b"))
    assert rules.decide(known, child, ["b"]) == rules.StrikeOwners(frozenset({"b"}))


def test_in_the_foreground_the_owner_waits_for_what_blocks_it():
    owner = node("a", deleting=True, finalizers=frozenset({rules.FOREGROUND}))
    known = graph(owner, child := node("b", "a"), loose := node("c", "a", blocks=False))
    assert rules.decide(known, owner, []) == rules.Collect((child, loose))
    assert rules.decide(known, child, []) == rules.Delete("Background")
    known.drop("b")
    assert rules.decide(known, owner, []) == rules.Release(rules.FOREGROUND)


def test_in_the_foreground_dependents_with_dependents_go_in_the_foreground_too():
    owner = node("a", deleting=True, finalizers=frozenset({rules.FOREGROUND}))
    known = graph(owner, child := node("b", "a"), node("c", "b"))
    assert rules.decide(known, child, []) == rules.Delete("Foreground")


def test_orphans_are_released_before_their_owner_goes():
    owner = node("a", deleting=True, finalizers=frozenset({rules.ORPHAN}))
    known = graph(owner, child := node("b", "a"))
    assert rules.decide(known, owner, []) == rules.Orphan((child,))


def test_a_namesake_in_another_namespace_is_no_owner():
    other = rules.Node("a", "v1", "Thing", "elsewhere", "a")
    known = graph(other, child := node("b", "a"))
    assert known.owner(child.owners[0], child) is None


def test_a_circle_of_owners_stays_until_one_is_deleted():
    known = graph(one := node("a", "b"), two := node("b", "a"))
    assert rules.decide(known, one, []) == rules.Nothing()
    known.drop("b")
    assert rules.decide(known, one, ["b"]) == rules.Delete("Background")
    assert known.dependents("a") == []
    assert two.uid not in known.nodes
