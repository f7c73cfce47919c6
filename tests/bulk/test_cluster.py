import socket

import pytest

from saccade.bulk.arguments import BulkArguments
from saccade.bulk.cluster import Room, check_options, connected, num_actors

OWN = Room(cpus=4, gpus=0, own=True)
CLUSTER = Room(cpus=64, gpus=4, own=False)


@pytest.mark.parametrize(
    ("options", "room", "expected"),
    [
        ({}, OWN, 4),
        ({"cpus_per_actor": 2}, OWN, 2),
        ({"actors": 9}, OWN, 4),
        ({}, CLUSTER, 10),
        ({"gpus_per_actor": 0.5}, CLUSTER, 8),
        ({"gpus_per_actor": 1, "cpus_per_actor": 32}, CLUSTER, 2),
        ({"gpus_per_actor": 8, "actors": 3}, CLUSTER, 3),
    ],
)
def test_as_many_actors_as_there_is_room_for(
    options: dict[str, float], room: Room, expected: int
) -> None:
    assert num_actors(BulkArguments(**options), room, 10) == expected


def test_no_room_for_an_actor_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Ray has 4 CPUs and 0 GPUs, too few .* with 1 and 1:"):
        num_actors(BulkArguments(gpus_per_actor=1, actors=2), OWN, 10)
    with pytest.raises(ValueError, match="if the cluster grows on demand, say --actors"):
        num_actors(BulkArguments(gpus_per_actor=8), CLUSTER, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"actors": 0}, "--actors is 0: expected at least one"),
        ({"cpus_per_actor": 0}, "--cpus-per-actor is 0: expected more than 0"),
        ({"gpus_per_actor": 1.5}, r"--gpus-per-actor is 1.5: expected 0, a part of one"),
        ({"gpus_per_actor": -1}, "--gpus-per-actor is -1: expected"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_options(BulkArguments(**options))


def test_a_cluster_that_is_not_there_is_named_at_once() -> None:
    with socket.socket() as taken:
        # A port that is bound, at which nobody listens.
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(ValueError, match=f'there is no Ray cluster at "{address}"'),
            connected(address),
        ):
            pass
    with (
        pytest.raises(ValueError, match=r'there is no Ray cluster at "a:b"'),
        connected("a:b"),
    ):
        pass
