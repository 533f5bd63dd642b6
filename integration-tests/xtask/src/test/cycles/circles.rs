//! Circles in a graph: which nodes are in one, and the shortest one of each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The shortest circle through every node that is in one, as its nodes in order, shortest first. A circle begins with
/// its smallest node and is there once.
pub fn shortest(edges: &BTreeSet<(usize, usize)>) -> Vec<Vec<usize>> {
    let mut next: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (from, to) in edges {
        next.entry(*from).or_default().push(*to);
    }
    let mut circles: Vec<Vec<usize>> = next.keys().filter_map(|node| through(*node, &next)).map(turned).collect();
    circles.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    circles.dedup();
    circles
}

/// The shortest way from a node back to it.
fn through(start: usize, next: &BTreeMap<usize, Vec<usize>>) -> Option<Vec<usize>> {
    let mut before: BTreeMap<usize, usize> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for to in next.get(&node).into_iter().flatten() {
            if *to == start {
                let mut circle = vec![node];
                while circle.last().is_some_and(|last| *last != start) {
                    circle.extend(circle.last().and_then(|last| before.get(last)).copied());
                }
                circle.reverse();
                return Some(circle);
            }
            if !before.contains_key(to) {
                before.insert(*to, node);
                queue.push_back(*to);
            }
        }
    }
    None
}

/// The same circle, from its smallest node on.
fn turned(mut circle: Vec<usize>) -> Vec<usize> {
    let smallest = circle.iter().enumerate().min_by_key(|(_, node)| **node).map_or(0, |(at, _)| at);
    circle.rotate_left(smallest);
    circle
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(edges: &[(usize, usize)]) -> Vec<Vec<usize>> {
        shortest(&edges.iter().copied().collect())
    }

    #[test]
    fn what_is_in_no_circle_is_left_out() {
        assert_eq!(found(&[(1, 2), (2, 3), (1, 3), (4, 1)]), Vec::<Vec<usize>>::new());
        // 4 leads into the circle and 5 out of it.
        assert_eq!(found(&[(4, 1), (1, 2), (2, 1), (2, 5)]), [[1, 2]]);
    }

    #[test]
    fn circles_come_shortest_first_and_once() {
        let edges = [(1, 2), (2, 3), (3, 4), (4, 1), (3, 2), (7, 8), (8, 9), (9, 7)];
        assert_eq!(found(&edges), [vec![2, 3], vec![7, 8, 9], vec![1, 2, 3, 4]]);
    }
}
