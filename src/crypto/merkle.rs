//! The append-only tree of RFC 6962: hashing, growth by one frontier, and the proofs of RFC 9162.
//!
//! A node is named by level (leaves are level 0) and index within the level. Only complete subtrees are ever stored,
//! so a stored node never changes; everything else is folded from them.

use std::error::Error as StdError;

use ring::digest::{Context, SHA256};
use thiserror::Error;

/// A SHA-256 value: leaf, node or root.
pub type Hash = [u8; 32];

/// The hash of one entry's bytes: `SHA-256(0x00 ‖ entry)`.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    digest(&[&[0], entry])
}

/// The hash of two neighbours: `SHA-256(0x01 ‖ left ‖ right)`.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    digest(&[&[1], left, right])
}

/// The root of a tree without entries: `SHA-256("")`.
pub fn empty_root() -> Hash {
    digest(&[])
}

fn digest(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// A complete subtree: `2^level` leaves, the `index`-th of its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Height above the leaves.
    pub level: u8,
    /// Position within the level.
    pub index: u64,
    /// RFC 6962 hash.
    pub hash: Hash,
}

/// The complete subtrees along the right edge of a tree: all that is needed to grow it and to know its root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// One hash per set bit of `size`, the largest subtree first.
    edge: Vec<Hash>,
}

impl Frontier {
    /// Loads the edge of a tree of `size` leaves through a reader of complete nodes.
    pub fn load<E>(size: u64, mut read: impl FnMut(u8, u64) -> Result<Hash, E>) -> Result<Self, E> {
        let levels = (0..64_u8).rev().filter(|level| size >> level & 1 == 1);
        let edge = levels.map(|level| read(level, (size >> level) - 1)).collect::<Result<_, E>>()?;
        Ok(Self { size, edge })
    }

    /// Number of leaves.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf and hands out every subtree it completes, the leaf itself first.
    pub fn push(&mut self, leaf: Hash, mut completed: impl FnMut(Node)) {
        let (mut level, mut index, mut hash) = (0, self.size, leaf);
        completed(Node { level, index, hash });
        while index & 1 == 1 {
            let Some(left) = self.edge.pop() else { break };
            hash = node_hash(&left, &hash);
            level += 1;
            index >>= 1;
            completed(Node { level, index, hash });
        }
        self.edge.push(hash);
        self.size += 1;
    }

    /// The root of the tree as it stands.
    pub fn root(&self) -> Hash {
        let folded = self.edge.iter().rev().copied().reduce(|right, left| node_hash(&left, &right));
        folded.unwrap_or_else(empty_root)
    }
}

/// Why a proof does not hold, or cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProofError {
    /// The position does not exist in a tree of that size.
    #[error("index {index} is not in a tree of {size} entries")]
    OutOfRange {
        /// Leaf index, or the older size.
        index: u64,
        /// Tree size.
        size: u64,
    },
    /// Too few or too many hashes for the sizes.
    #[error("proof of {0} hashes does not fit the tree sizes")]
    Length(usize),
    /// The hashes lead to another root.
    #[error("proof leads to another root")]
    Root,
    /// A node could not be read.
    #[error("node cannot be read: {0}")]
    Node(String),
}

/// Checks that `leaf` is at `index` in the tree of `size` leaves with that root (RFC 9162 §2.1.3.2).
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::OutOfRange { index, size });
    }
    let (mut at, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return Err(ProofError::Length(proof.len()));
        }
        if at & 1 == 1 || at == last {
            hash = node_hash(sibling, &hash);
            climb_right(&mut at, &mut last);
        } else {
            hash = node_hash(&hash, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    conclude(proof, last, &[(&hash, root)])
}

/// Checks that the tree (`old_size`, `old_root`) is a prefix of (`size`, `root`) (RFC 9162 §2.1.4.2).
///
/// Equal sizes need equal roots and no hashes; nothing can be proved from an empty tree, so size 0 is refused.
pub fn verify_consistency(
    (old_size, old_root): (u64, &Hash),
    (size, root): (u64, &Hash),
    proof: &[Hash],
) -> Result<(), ProofError> {
    if old_size > size || old_size == 0 {
        return Err(ProofError::OutOfRange { index: old_size, size });
    }
    if old_size == size {
        return conclude(proof, proof.len() as u64, &[(old_root, root)]);
    }
    let (seed, rest) = match proof.split_first() {
        _ if old_size.is_power_of_two() => (old_root, proof),
        Some(parts) => parts,
        None => return Err(ProofError::Length(0)),
    };
    let (mut at, mut last) = (old_size - 1, size - 1);
    let complete = at.trailing_ones();
    (at, last) = (at >> complete, last >> complete);
    let (mut old, mut new) = (*seed, *seed);
    for sibling in rest {
        if last == 0 {
            return Err(ProofError::Length(proof.len()));
        }
        if at & 1 == 1 || at == last {
            old = node_hash(sibling, &old);
            new = node_hash(sibling, &new);
            climb_right(&mut at, &mut last);
        } else {
            new = node_hash(&new, sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    conclude(proof, last, &[(&old, old_root), (&new, root)])
}

/// Skips the levels at which a node on the right edge has no sibling.
fn climb_right(at: &mut u64, last: &mut u64) {
    while *at & 1 == 0 && *at != 0 {
        (*at, *last) = (*at >> 1, *last >> 1);
    }
}

fn conclude(proof: &[Hash], left_over: u64, pairs: &[(&Hash, &Hash)]) -> Result<(), ProofError> {
    if left_over != 0 {
        return Err(ProofError::Length(proof.len()));
    }
    if pairs.iter().all(|(made, given)| made == given) { Ok(()) } else { Err(ProofError::Root) }
}

/// The hashes that prove leaf `index` in a tree of `size` leaves, from a reader of complete nodes.
pub fn inclusion_proof<E: StdError>(
    index: u64,
    size: u64,
    read: impl FnMut(u8, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, ProofError> {
    if index >= size {
        return Err(ProofError::OutOfRange { index, size });
    }
    let prover = Prover { read, proof: Vec::new() };
    let (mut low, mut high) = (0, size);
    let mut siblings = Vec::new();
    while high - low > 1 {
        let middle = low + split(high - low);
        let inside_left = index < middle;
        siblings.push(if inside_left { (middle, high) } else { (low, middle) });
        (low, high) = if inside_left { (low, middle) } else { (middle, high) };
    }
    prover.push_all(siblings)
}

/// The hashes that prove the tree of `old_size` leaves a prefix of the tree of `size`, from a reader of complete nodes.
pub fn consistency_proof<E: StdError>(
    old_size: u64,
    size: u64,
    read: impl FnMut(u8, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, ProofError> {
    if old_size == 0 || old_size > size {
        return Err(ProofError::OutOfRange { index: old_size, size });
    }
    let prover = Prover { read, proof: Vec::new() };
    let (mut low, mut high) = (0, size);
    let mut siblings = Vec::new();
    while high != old_size {
        let middle = low + split(high - low);
        let inside_left = old_size <= middle;
        siblings.push(if inside_left { (middle, high) } else { (low, middle) });
        (low, high) = if inside_left { (low, middle) } else { (middle, high) };
    }
    if low > 0 {
        siblings.push((low, high));
    }
    prover.push_all(siblings)
}

/// The largest power of two below `n`, for `n` ≥ 2 (RFC 6962 §2.1).
fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

struct Prover<R> {
    read: R,
    proof: Vec<Hash>,
}

impl<E: StdError, R: FnMut(u8, u64) -> Result<Hash, E>> Prover<R> {
    /// Turns ranges found from the root downwards into hashes in proof order, the lowest first.
    fn push_all(mut self, ranges: Vec<(u64, u64)>) -> Result<Vec<Hash>, ProofError> {
        for (low, high) in ranges.into_iter().rev() {
            let hash = self.range_root(low, high)?;
            self.proof.push(hash);
        }
        Ok(self.proof)
    }

    /// The root over leaves `low..high`, where `low` is a multiple of the largest subtree inside.
    fn range_root(&mut self, mut low: u64, high: u64) -> Result<Hash, ProofError> {
        let mut parts = Vec::new();
        while low < high {
            let level = u8::try_from((high - low).ilog2()).unwrap_or(63);
            parts.push((self.read)(level, low >> level).map_err(|e| ProofError::Node(e.to_string()))?);
            low += 1 << level;
        }
        Ok(parts.into_iter().rev().reduce(|right, left| node_hash(&left, &right)).unwrap_or_else(empty_root))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    /// RFC 6962 §2.1, word for word.
    fn naive(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [leaf] => *leaf,
            _ => {
                let k = usize::try_from(split(leaves.len() as u64)).unwrap();
                node_hash(&naive(&leaves[..k]), &naive(&leaves[k..]))
            }
        }
    }

    struct Forest {
        leaves: Vec<Hash>,
        nodes: BTreeMap<(u8, u64), Hash>,
        roots: Vec<Hash>,
    }

    fn forest(n: u64) -> Forest {
        let (mut frontier, mut nodes) = (Frontier::default(), BTreeMap::new());
        let (mut roots, mut leaves) = (vec![frontier.root()], Vec::new());
        for i in 0..n {
            let leaf = leaf_hash(&i.to_be_bytes());
            frontier.push(leaf, |node| assert_eq!(nodes.insert((node.level, node.index), node.hash), None));
            leaves.push(leaf);
            roots.push(frontier.root());
        }
        Forest { leaves, nodes, roots }
    }

    #[test]
    fn the_frontier_agrees_with_the_definition_at_every_size() {
        let forest = forest(300);
        for (size, root) in forest.roots.iter().enumerate() {
            assert_eq!(*root, naive(&forest.leaves[..size]), "{size}");
            let loaded = Frontier::load(size as u64, |l, i| Ok::<_, Infallible>(forest.nodes[&(l, i)])).unwrap();
            assert_eq!((loaded.size(), loaded.root()), (size as u64, *root));
        }
    }

    #[test]
    fn every_inclusion_and_consistency_proof_up_to_300_holds_and_no_neighbour_does() {
        let forest = forest(300);
        let read = |l: u8, i: u64| Ok::<_, Infallible>(forest.nodes[&(l, i)]);
        for size in 1..=300_u64 {
            let root = &forest.roots[usize::try_from(size).unwrap()];
            for at in 0..size {
                let leaf = &forest.leaves[usize::try_from(at).unwrap()];
                let proof = inclusion_proof(at, size, read).unwrap();
                verify_inclusion(leaf, at, size, &proof, root).unwrap();
                assert!(verify_inclusion(&[7; 32], at, size, &proof, root).is_err());
                let old = (at + 1, &forest.roots[usize::try_from(at + 1).unwrap()]);
                let proof = consistency_proof(at + 1, size, read).unwrap();
                verify_consistency(old, (size, root), &proof).unwrap();
                assert!(verify_consistency((at + 1, &[7; 32]), (size, root), &proof).is_err());
            }
        }
    }

    #[test]
    fn positions_outside_the_tree_are_refused() {
        let read = |_: u8, _: u64| Ok::<_, Infallible>([0; 32]);
        assert_eq!(inclusion_proof(3, 3, read), Err(ProofError::OutOfRange { index: 3, size: 3 }));
        assert_eq!(consistency_proof(0, 3, read), Err(ProofError::OutOfRange { index: 0, size: 3 }));
        assert_eq!(consistency_proof(4, 3, read), Err(ProofError::OutOfRange { index: 4, size: 3 }));
        assert!(verify_consistency((0, &empty_root()), (0, &empty_root()), &[]).is_err());
        assert!(verify_inclusion(&[0; 32], u64::MAX, u64::MAX, &[], &[0; 32]).is_err());
    }
}
