//! Which chunks make way first where weights are streamed: those of a tensor together, and such tensors as are far apart.
//!
//! A tensor that is partly outside VRAM takes a staging slot, and mostly as much of the link, as one that is outside as a
//! whole. So what matters is how many tensors come to be outside, not how many bytes.

use greenboost_contract::settings::GRANULE;
use std::ops::Range;

/// What of a chunk matters here.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Its addresses.
    pub at: Range<u64>,
    /// Whether it is in VRAM.
    pub is_in_vram: bool,
    /// Whether it may leave VRAM.
    pub may_move: bool,
}

/// When each of the pieces makes way, the smallest number first; pieces and tensors in order of address.
///
/// First goes what costs nothing: parts of tensors that are outside in part already. Then tensors from everywhere in the
/// pass: ranks with their bits reversed. A granule that several tensors share goes with the last of them.
pub fn order(tensors: &[Range<u64>], pieces: &[Piece]) -> Vec<u32> {
    let inside = |piece: &Piece| {
        let first = tensors.partition_point(|tensor| tensor.end <= piece.at.start);
        let end = tensors.partition_point(|tensor| tensor.start < piece.at.end);
        first..end.max(first)
    };
    let mut is_outside = vec![false; tensors.len()];
    for piece in pieces.iter().filter(|piece| !piece.is_in_vram) {
        is_outside[inside(piece)].fill(true);
    }
    let mut may_go = vec![false; tensors.len()];
    for piece in pieces.iter().filter(|piece| piece.may_move) {
        may_go[inside(piece)].fill(true);
    }
    let mut rank = 0u32;
    let turn_of: Vec<u32> = (0..tensors.len())
        .map(|at| {
            if is_outside[at] || !may_go[at] {
                return 0;
            }
            rank += 1;
            (rank - 1).reverse_bits() | 1
        })
        .collect();
    let of = |piece: &Piece| {
        let bytes = |at: &usize| tensors[*at].end.min(piece.at.end) - tensors[*at].start.max(piece.at.start);
        let largest = || inside(piece).max_by_key(bytes).map(|at| turn_of[at]);
        let is_shared = piece.at.end - piece.at.start == GRANULE;
        let turn = if is_shared { turn_of[inside(piece)].iter().copied().max() } else { largest() };
        turn.unwrap_or(0)
    };
    pieces.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces from a word each: granules, and whether it is in VRAM (`V`) or not.
    fn pieces(words: &[&str]) -> Vec<Piece> {
        let mut at = 0;
        let of = |word: &&str| {
            let bytes = word.len() as u64 * GRANULE;
            at += bytes;
            let is_in_vram = word.starts_with('V');
            Piece { at: at - bytes..at, is_in_vram, may_move: is_in_vram }
        };
        words.iter().map(of).collect()
    }

    /// The pieces in the order in which they leave VRAM, those of the same turn together.
    fn leaving(tensors: &[Range<u64>], words: &[&str]) -> Vec<Vec<usize>> {
        let pieces = pieces(words);
        let turns = super::order(tensors, &pieces);
        let mut distinct: Vec<_> = (0..pieces.len()).filter(|at| pieces[*at].may_move).map(|at| turns[at]).collect();
        distinct.sort_unstable();
        distinct.dedup();
        let of = |turn| (0..pieces.len()).filter(|at| pieces[*at].may_move && turns[*at] == turn).collect();
        distinct.into_iter().map(of).collect()
    }

    /// Tensors of four granules and a half, one after another.
    fn tensors(count: u64) -> Vec<Range<u64>> {
        let bytes = 4 * GRANULE + GRANULE / 2;
        (0..count).map(|at| at * bytes..(at + 1) * bytes).collect()
    }

    #[test]
    fn a_tensor_leaves_whole_and_a_granule_that_it_shares_stays_with_its_neighbour() {
        // 0: 0..4.5, 1: 4.5..9, 2: 9..13.5, 3: 13.5..18
        let words = ["VVVV", "V", "VVVV", "VVVV", "V", "VVVV"];
        // The first, the one in the middle, the second, the last.
        assert_eq!(leaving(&tensors(4), &words), [vec![0], vec![3], vec![1, 2], vec![4, 5]]);
    }

    #[test]
    fn what_is_outside_already_takes_no_other_tensor_along() {
        // The first is outside, but for what it shares with the second, which goes with that.
        assert_eq!(
            leaving(&tensors(4), &["RRRR", "V", "VVVV", "VVVV", "V", "VVVV"]),
            [vec![1, 2], vec![5], vec![3, 4]]
        );
        // And but for a part of its own, which goes first.
        let words = ["RRR", "V", "V", "VVVV", "VVVV", "V", "VVVV"];
        assert_eq!(leaving(&tensors(4), &words), [vec![1], vec![2, 3], vec![6], vec![4, 5]]);
    }

    #[test]
    fn padding_goes_first_and_small_tensors_go_by_what_most_of_a_chunk_is() {
        assert_eq!(leaving(&tensors(1), &["VVVVV", "VV"]), [vec![1], vec![0]]);
        // Chunks of two granules and a bit of the next tensor.
        let bytes = 2 * GRANULE - 4096;
        let small: Vec<_> = (0..3u64).map(|at| at * bytes..(at + 1) * bytes).collect();
        assert_eq!(leaving(&small, &["VV", "VV", "VV"]), [vec![0], vec![2], vec![1]]);
    }
}
