//! The way of a walk over a graph, depth first.
//!
//! Must stay true: however the graph is shaped, only so many links are held. Of blocks far back on the way the links
//! are let go, and whoever walks reads such a block once more when it is its turn again. A block whose last link is
//! taken is left, so a chain of blocks makes no long way.

use super::block::Cid;

/// Links that are held besides those of the block that was entered last: 40 MiB.
const MOST_LINKS: usize = 256 << 10;
/// Blocks on the way: 50 MiB.
const DEEPEST: usize = 256 << 10;

/// A way.
#[derive(Debug)]
pub struct Trail {
    steps: Vec<Step>,
    held: usize,
    /// The first step of which links are held, if any are.
    first: usize,
    most: usize,
    deepest: usize,
}

#[derive(Debug)]
struct Step {
    cid: Cid,
    next: usize,
    links: Option<Vec<Cid>>,
}

/// Where it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// To this block.
    Link(Cid),
    /// Back to this block, whose links are not held any more: [`Trail::again`] or [`Trail::leave`] comes next.
    Again(Cid),
    /// Nowhere.
    End,
}

impl Default for Trail {
    fn default() -> Self {
        Self { steps: Vec::new(), held: 0, first: 0, most: MOST_LINKS, deepest: DEEPEST }
    }
}

impl Trail {
    /// Goes into a block that links to these. False if the way is too long: then it does not.
    #[must_use]
    pub fn enter(&mut self, cid: Cid, links: Vec<Cid>) -> bool {
        if links.is_empty() {
            return true;
        }
        if self.steps.len() >= self.deepest {
            return false;
        }
        self.steps.push(Step { cid, next: 0, links: None });
        self.again(links);
        true
    }

    /// The links of the block that [`Next::Again`] was about.
    pub fn again(&mut self, links: Vec<Cid>) {
        let last = self.steps.len() - 1;
        self.first = self.first.min(last);
        self.held += links.len();
        self.steps[last].links = Some(links);
        while self.held > self.most && self.first < last {
            self.held -= self.steps[self.first].links.take().map_or(0, |links| links.len());
            self.first += 1;
        }
    }

    /// Leaves the block that was entered last, whatever it still links to.
    pub fn leave(&mut self) {
        if let Some(step) = self.steps.pop() {
            self.held -= step.links.map_or(0, |links| links.len());
            self.first = self.first.min(self.steps.len());
        }
    }

    /// Where it goes on.
    pub fn go_on(&mut self) -> Next {
        loop {
            let Some(step) = self.steps.last_mut() else { return Next::End };
            let Some(links) = &step.links else { return Next::Again(step.cid) };
            let link = links.get(step.next).copied();
            step.next += 1;
            let is_last = step.next >= links.len();
            if is_last {
                self.leave();
            }
            if let Some(link) = link {
                return Next::Link(link);
            }
        }
    }

    /// What comes next, as far as links are held.
    pub fn upcoming(&self) -> impl Iterator<Item = &Cid> {
        self.steps.iter().rev().flat_map(|step| step.links.iter().flatten().skip(step.next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipfs::{codec, named};

    fn cid(n: u32) -> Cid {
        named(codec::DAG_PB, &n.to_le_bytes())
    }

    /// Everything below 1 in a tree in which `n` links to `children(n)`, and the most links that were held.
    fn walked(mut trail: Trail, children: &dyn Fn(u32) -> Vec<u32>) -> (Vec<u32>, usize, usize) {
        let names: std::collections::HashMap<Cid, u32> = (0..10_000).map(|n| (cid(n), n)).collect();
        let links = |n: u32| children(n).into_iter().map(cid).collect::<Vec<_>>();
        let (mut order, mut most, mut again) = (vec![1], 0, 0);
        assert!(trail.enter(cid(1), links(1)));
        loop {
            let held = trail.steps.iter().flat_map(|step| &step.links).map(Vec::len).sum::<usize>();
            assert_eq!(held, trail.held);
            most = most.max(held);
            match trail.go_on() {
                Next::Link(link) => {
                    order.push(names[&link]);
                    assert!(trail.enter(link, links(names[&link])));
                }
                Next::Again(cid) => {
                    again += 1;
                    trail.again(links(names[&cid]));
                }
                Next::End => return (order, most, again),
            }
        }
    }

    #[test]
    fn the_order_is_the_same_whether_links_are_held_or_let_go() {
        // Ten links in each of three hundred levels, the first of which goes on.
        let children = |n: u32| match n {
            1..=300 => std::iter::once(n + 1).chain((0..9).map(|leaf| 1_000 + 10 * n + leaf)).collect(),
            _ => Vec::new(),
        };
        let (held, most, again) = walked(Trail::default(), &children);
        assert_eq!((held.len(), most, again), (3_001, 3_000, 0));
        let (let_go, most, again) = walked(Trail { most: 50, ..Trail::default() }, &children);
        assert_eq!(held, let_go);
        assert!(most <= 60 && (200..=300).contains(&again), "{most} held, {again} read again");
    }

    #[test]
    fn a_chain_is_no_long_way_and_what_is_too_deep_is_told() {
        let chain = |n: u32| if n < 9_000 { vec![n + 1] } else { Vec::new() };
        let (order, most, _) = walked(Trail { deepest: 2, ..Trail::default() }, &chain);
        assert_eq!((order.len(), most), (9_000, 1));
        let mut trail = Trail { deepest: 1, ..Trail::default() };
        assert!(trail.enter(cid(1), vec![cid(2), cid(3)]));
        assert_eq!(trail.go_on(), Next::Link(cid(2)));
        assert!(!trail.enter(cid(2), vec![cid(4)]));
        assert_eq!((trail.go_on(), trail.go_on()), (Next::Link(cid(3)), Next::End));
    }
}
