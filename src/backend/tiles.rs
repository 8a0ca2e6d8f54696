//! Lists of work for attention on a device: which rows of queries, or of keys, one block owns, the most expensive first, so
//! that no block begins a long tile when the others end.
//!
//! Tiles begin where segments begin, so what is computed for a segment does not depend on where it is packed. Both lists
//! cover all T rows once: those in no segment are owned by [`NOBODY`], and get zeros.

use std::cmp::Reverse;
use std::ops::Range;

use crate::data::{KeyRange, Segment};

/// Query rows of a tile, at most.
pub const QUERY_TILE: u32 = 128;
/// Key rows of a tile, at most.
pub const KEY_TILE: u32 = 128;
/// The u32 words of a tile: its segment (of queries) or its family (of keys), the first row, the rows.
pub const TILE_WORDS: usize = 3;
/// In place of a segment or a family.
pub const NOBODY: u32 = u32::MAX;

/// The rows of one block, and what they cost.
struct Tile {
    words: [u32; TILE_WORDS],
    cost: u64,
}

/// Query tiles of segments that cover the first rows of `rows`.
pub fn query_tiles(segments: &[Segment], rows: usize) -> Vec<u32> {
    let mut tiles = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        for first in (0..segment.len).step_by(QUERY_TILE as usize) {
            let count = QUERY_TILE.min(segment.len - first);
            let last = first + count - 1;
            let cost = segment.ranges.iter().map(|range| u64::from(visible(range, last))).sum();
            tiles.push(Tile { words: [index as u32, segment.start + first, count], cost });
        }
    }
    let end = segments.last().map_or(0, |segment| segment.start + segment.len);
    finish(tiles, end, rows as u32, QUERY_TILE)
}

/// Key tiles of the segments of families, which cover the first rows of `rows`. Rows that are in no family count as rows in
/// no segment.
pub fn key_tiles(segments: &[Segment], families: &[Range<u32>], rows: usize) -> Vec<u32> {
    let (mut tiles, mut end) = (Vec::new(), 0);
    for (index, family) in families.iter().enumerate() {
        let members = &segments[family.start as usize..family.end as usize];
        for segment in members {
            end = segment.start + segment.len;
            for row in (segment.start..end).step_by(KEY_TILE as usize) {
                let count = KEY_TILE.min(end - row);
                let seen_by =
                    |member: &Segment| member.ranges.map(|range| queries(member, &range, row, count));
                let cost = members.iter().flat_map(seen_by).sum();
                tiles.push(Tile { words: [index as u32, row, count], cost });
            }
        }
    }
    finish(tiles, end, rows as u32, KEY_TILE)
}

/// How many keys of a range query `query` sees.
fn visible(range: &KeyRange, query: u32) -> u32 {
    range.len.min(query + range.causal_offset + 1)
}

/// How many queries of a segment see any of `count` key rows from `row` on through this range.
fn queries(segment: &Segment, range: &KeyRange, row: u32, count: u32) -> u64 {
    if row >= range.row + range.len || range.row >= row + count {
        return 0;
    }
    let first_query = row.saturating_sub(range.row).saturating_sub(range.causal_offset);
    u64::from(segment.len.saturating_sub(first_query))
}

fn finish(mut tiles: Vec<Tile>, end: u32, rows: u32, tile: u32) -> Vec<u32> {
    // The sort is stable: equals stay in the order of their rows.
    tiles.sort_by_key(|tile| Reverse(tile.cost));
    let padding = (end..rows).step_by(tile as usize).map(|row| [NOBODY, row, tile.min(rows - row)]);
    tiles.iter().map(|tile| tile.words).chain(padding).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A prompt of 300 rows, answers of 1 and 200, then a family of one row; 6 rows of padding.
    fn batch() -> (Vec<Segment>, Vec<Range<u32>>, usize) {
        let own = |start, len| KeyRange { row: start, len, causal_offset: 0 };
        let prompt = KeyRange { row: 0, len: 300, causal_offset: 300 };
        let segment = |start, len, shared| Segment { start, len, ranges: [shared, own(start, len)] };
        let segments = vec![
            segment(0, 300, KeyRange::default()),
            segment(300, 1, prompt),
            segment(301, 200, prompt),
            segment(501, 1, KeyRange::default()),
        ];
        (segments, vec![0..3, 3..4], 508)
    }

    fn tiles(words: &[u32]) -> Vec<[u32; TILE_WORDS]> {
        words.chunks_exact(TILE_WORDS).map(|tile| [tile[0], tile[1], tile[2]]).collect()
    }

    fn assert_rows_once(words: &[u32], rows: usize) {
        let mut owned: Vec<u32> = tiles(words).iter().flat_map(|[_, row, count]| *row..row + count).collect();
        owned.sort_unstable();
        assert_eq!(owned, (0..rows as u32).collect::<Vec<_>>());
    }

    #[test]
    fn query_tiles_start_at_segments_and_are_sorted_by_the_keys_they_see() {
        let (segments, _, rows) = batch();
        let words = query_tiles(&segments, rows);
        assert_rows_once(&words, rows);
        let expected = [
            [2, 429, 72],
            [2, 301, 128],
            [1, 300, 1],
            [0, 256, 44],
            [0, 128, 128],
            [0, 0, 128],
            [3, 501, 1],
            [NOBODY, 502, 6],
        ];
        assert_eq!(tiles(&words), expected, "500, 428, 301, 300, 256, 128 and 1 keys");
    }

    #[test]
    fn key_tiles_start_at_segments_and_are_sorted_by_the_queries_that_see_them() {
        let (segments, families, rows) = batch();
        let words = key_tiles(&segments, &families, rows);
        assert_rows_once(&words, rows);
        let expected = [
            [0, 0, 128],
            [0, 128, 128],
            [0, 256, 44],
            [0, 301, 128],
            [0, 429, 72],
            [0, 300, 1],
            [1, 501, 1],
            [NOBODY, 502, 6],
        ];
        assert_eq!(tiles(&words), expected, "501, 373, 245, 200, 72, 1 and 1 queries");
    }

    #[test]
    fn without_families_there_is_no_work_by_keys() {
        let (segments, _, _) = batch();
        assert_eq!(tiles(&key_tiles(&segments, &[], 130)), [[NOBODY, 0, 128], [NOBODY, 128, 2]]);
        assert!(query_tiles(&[], 0).is_empty());
    }
}
