//! Which part of attention's products is needed. A query sees the keys up to a diagonal of its scores; beyond it there is
//! nothing to compute, and nothing to multiply with.

use std::ops::Range;

/// What of a product is needed, where query i sees the keys before `i + seen`.
#[derive(Clone, Copy, Debug)]
pub enum Needed {
    /// All.
    All,
    /// C has a row for each query and a column for each key. Register tiles of which no query sees a key are left as they are.
    Scores {
        /// Keys that query 0 sees; negative if later queries are the first to see any.
        seen: isize,
    },
    /// A has a row for each query and a column for each key, zeros where the key is not seen.
    Weights {
        /// As above.
        seen: isize,
    },
    /// A has a row for each key and a column for each query, zeros where the key is not seen.
    WeightColumns {
        /// As above.
        seen: isize,
    },
}

impl Needed {
    /// The depths, of so many, at which these rows and columns of C have anything to sum; nothing if they are not needed.
    pub fn depths(self, rows: Range<usize>, columns: Range<usize>, depth: usize) -> Option<Range<usize>> {
        let within = |depths: isize| depths.clamp(0, depth as isize) as usize;
        let (first, last) = (rows.start as isize, rows.end as isize - 1);
        match self {
            Self::All => Some(0..depth),
            Self::Scores { seen } => ((columns.start as isize) < last + seen).then_some(0..depth),
            Self::Weights { seen } => Some(0..within(last + seen)),
            Self::WeightColumns { seen } => Some(within(first + 1 - seen)..depth),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the definition, element by element.
    #[test]
    fn depths_leave_out_nothing_that_is_seen_and_end_at_the_diagonal() {
        let (queries, keys) = (13, 17);
        for seen in -20..20_isize {
            let sees = |query: usize, key: usize| (key as isize) < query as isize + seen;
            for first in 0..queries {
                for rows in [first..first + 1, first..queries] {
                    let weights = Needed::Weights { seen }.depths(rows.clone(), 0..4, keys).unwrap();
                    let last_seen = (0..keys).rfind(|&key| rows.clone().any(|query| sees(query, key)));
                    assert_eq!(weights, 0..last_seen.map_or(0, |key| key + 1), "{seen} {rows:?}");
                    for column in 0..keys {
                        let scores = Needed::Scores { seen }.depths(rows.clone(), column..keys, 7);
                        let some = rows.clone().any(|query| sees(query, column));
                        assert_eq!(scores, some.then_some(0..7), "{seen} {rows:?} {column}");
                    }
                }
            }
            for first in 0..keys {
                let depths = Needed::WeightColumns { seen }.depths(first..keys, 0..4, queries).unwrap();
                let first_seer = (0..queries).find(|&query| sees(query, first)).unwrap_or(queries);
                assert_eq!(depths, first_seer..queries, "{seen} {first}");
            }
        }
        assert_eq!(Needed::All.depths(3..5, 1..2, 9), Some(0..9));
    }
}
