"""Graphs by name, by cameras and by edges; the weights of messages, with and without missing views."""

import numpy as np
import pytest

from mvead_jax.methods.multiflow.graph import (
    Graph,
    chain,
    complete,
    message_weights,
    named_graph,
    nominal_graph,
    top_ring,
    unconnected,
)
from mvead_jax.rig.cameras import _PLACES
from mvead_jax.runtime.errors import UserError

VIEWS = ("C1", "C2", "C3", "C4", "C5")


def neighbours(graph, view):
    return {source for source, target in graph.edges if target == view}


def test_five_views_of_top_ring_hear_whom_the_released_code_says():
    graph = top_ring(5)
    assert [neighbours(graph, view) for view in range(5)] == [
        {1, 2, 3, 4},
        {0, 2, 4},
        {0, 1, 3},
        {0, 2, 4},
        {0, 1, 3},
    ]


@pytest.mark.parametrize(("views", "heard"), [(1, 0), (2, 1), (3, 2), (4, 3), (6, 3)])
def test_a_side_camera_of_a_small_ring_hears_each_neighbour_once(views, heard):
    graph = top_ring(views)
    assert len(neighbours(graph, views - 1)) == heard
    assert len(neighbours(graph, 0)) == views - 1


@pytest.mark.parametrize("views", [1, 2, 3, 6])
def test_complete_chain_and_none_have_their_edges(views):
    assert len(complete(views).edges) == views * (views - 1)
    assert len(chain(views).edges) == 2 * (views - 1)
    assert unconnected(views).edges == ()


def test_the_rig_has_one_camera_above_and_its_ring_goes_by_azimuth():
    azimuths, elevations, _ = zip(*_PLACES, strict=True)
    assert nominal_graph(elevations, azimuths) == top_ring(5)
    order = [3, 0, 4, 1, 2]  # the same cameras, called differently
    graph = nominal_graph([elevations[k] for k in order], [azimuths[k] - 360 for k in order])
    expected = {(order.index(a), order.index(b)) for a, b in top_ring(5).edges}
    assert set(graph.edges) == expected


def test_two_cameras_above_or_none_give_the_complete_graph():
    assert nominal_graph([90, 89, 45], [0, 0, 0]) == complete(3)
    assert nominal_graph([45, 45], [0, 180]) == complete(2)


def test_names_and_lists_of_edges_give_their_graphs():
    assert named_graph("auto", VIEWS) == complete(5)
    assert named_graph("auto", VIEWS, [90, 45, 45, 45, 45], [0, 0, 90, 180, 270]) == top_ring(5)
    assert named_graph("top-ring", VIEWS, [90, 45, 45, 45, 45], [0, 0, 180, 90, 270]) == top_ring(
        5, 0, [1, 3, 2, 4]
    )
    assert named_graph("top-ring", VIEWS) == top_ring(5)
    assert named_graph("chain", VIEWS) == chain(5)
    assert named_graph("none", VIEWS) == unconnected(5)
    assert named_graph("C1>C2, C2 <> C3,C1>C2", VIEWS).edges == ((0, 1), (1, 2), (2, 1))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ring", "expected one of auto, top-ring"),
        ("C1>C9", "no view 'C9'; the views are C1, C2"),
        ("C1>C1", "to itself"),
        ("C1>C2>C3", "is no edge"),
        ("C1>C2,", "is no edge"),
        ("C1 C2", "expected one of"),
    ],
)
def test_a_graph_that_does_not_exist_is_refused_in_one_line(name, words):
    with pytest.raises(UserError, match=words) as caught:
        named_graph(name, VIEWS)
    assert "multiflow.graph" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_top_ring_without_one_camera_above_is_refused():
    with pytest.raises(UserError, match="0 of 2 cameras have an elevation of at least 80 degrees"):
        named_graph("top-ring", ("a", "b"), [45, 45], [0, 90])


@pytest.mark.parametrize("edges", [((0, 0),), ((0, 2),), ((1, 0), (0, 1)), ((0, 1), (0, 1)), ((-1, 0),)])
def test_edges_that_are_no_edges_of_the_graph_are_a_programmers_error(edges):
    with pytest.raises(ValueError, match="edge"):
        Graph(2, edges)


@pytest.mark.parametrize("graph", [top_ring(5), complete(3), chain(4), Graph(3, ((0, 1), (2, 1)))])
def test_weights_are_the_mean_over_the_messages_that_arrive(graph):
    for present in np.ndindex(*[2] * graph.views):
        weights = np.asarray(message_weights(graph, np.array(present, bool)))
        for view in range(graph.views):
            arriving = [source for source in neighbours(graph, view) if present[source]]
            for edge in graph.incoming(view):
                source = graph.edges[edge][0]
                expected = 1 / len(arriving) if source in arriving else 0
                assert weights[edge] == np.float32(expected)
    assert (message_weights(graph) == message_weights(graph, np.ones(graph.views, bool))).all()
