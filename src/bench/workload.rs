//! What a step is measured on: lengths of prompts and answers, and random tokens for them.

use std::fmt::Write;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::BenchError;

/// Tokens of a pair: prompt, chosen answer, rejected answer.
pub type Lengths = [usize; 3];

/// How the lengths are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All alike: no peer wastes anything on padding.
    Even,
    /// [`RAGGED`].
    Ragged,
}

impl Kind {
    /// The name of the setting.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Even => "even",
            Kind::Ragged => "ragged",
        }
    }
}

/// Mean of every column of [`RAGGED`], before its bounds.
pub const RAGGED_MEAN: usize = 512;

/// Lengths drawn once from a log-normal distribution (sigma 0.8, between 8 and 4 times the mean) by Python's generator, so
/// that programs in Python can be measured on the same ones:
///
/// ```text
/// python3 -c 'import math, random
/// rng = random.Random(20241)
/// draw = lambda mean: max(8, min(4 * mean, int(rng.lognormvariate(math.log(mean) - 0.32, 0.8))))
/// for _ in range(64): print([draw(512), draw(512), draw(512)])'
/// ```
#[rustfmt::skip]
pub const RAGGED: [Lengths; 64] = [
    [528, 94, 689], [597, 231, 120], [95, 2048, 710], [1422, 333, 476], [459, 976, 270],
    [259, 435, 436], [350, 45, 312], [196, 63, 464], [336, 236, 149], [348, 479, 184],
    [163, 174, 1099], [80, 745, 942], [195, 126, 246], [239, 570, 86], [1185, 601, 245],
    [734, 82, 764], [789, 171, 444], [922, 296, 842], [563, 458, 1837], [528, 126, 315],
    [397, 252, 387], [516, 2048, 517], [240, 460, 527], [913, 414, 223], [46, 1587, 232],
    [252, 268, 1171], [541, 321, 337], [543, 576, 678], [661, 137, 221], [191, 319, 190],
    [498, 630, 672], [538, 619, 972], [725, 118, 267], [494, 277, 404], [213, 382, 465],
    [501, 470, 776], [35, 517, 167], [181, 223, 1001], [1250, 108, 104], [330, 291, 659],
    [893, 321, 753], [178, 204, 813], [325, 152, 1207], [349, 222, 463], [89, 215, 456],
    [476, 342, 249], [159, 375, 1162], [1248, 288, 173], [888, 536, 187], [1132, 245, 330],
    [457, 306, 412], [653, 619, 544], [2048, 218, 658], [649, 210, 564], [881, 195, 371],
    [226, 932, 167], [433, 172, 634], [287, 152, 212], [1003, 420, 949], [76, 958, 678],
    [217, 309, 289], [141, 141, 1317], [129, 450, 49], [478, 160, 118],
];

/// How much to measure on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many pairs.
    Pairs(usize),
    /// As few pairs as hold so many tokens, prompts counted once.
    Tokens(usize),
}

/// The pairs of one optimizer step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// How their lengths are spread.
    pub kind: Kind,
    /// Mean prompt length, as asked for.
    pub prompt: usize,
    /// Mean answer length, as asked for.
    pub response: usize,
    /// Every pair's.
    pub lengths: Vec<Lengths>,
}

impl Workload {
    /// Pairs of these mean lengths; each has at least one pair.
    ///
    /// # Errors
    /// Ragged lengths that the table does not have.
    pub fn new(kind: Kind, prompt: usize, response: usize, amount: Amount) -> Result<Self, BenchError> {
        if kind == Kind::Ragged && (prompt, response) != (RAGGED_MEAN, RAGGED_MEAN) {
            return Err(BenchError::RaggedMeans { mean: RAGGED_MEAN, prompt, response });
        }
        let length = |index: usize| match kind {
            Kind::Even => Some([prompt, response, response]),
            Kind::Ragged => RAGGED.get(index).copied(),
        };
        let mut lengths = Vec::new();
        let mut tokens = 0;
        let complete = |lengths: &[Lengths], tokens: usize| match amount {
            Amount::Pairs(pairs) => lengths.len() >= pairs.max(1),
            Amount::Tokens(wanted) => tokens >= wanted.max(1),
        };
        while !complete(&lengths, tokens) {
            let Some(pair) = length(lengths.len()) else {
                let asked = match amount {
                    Amount::Pairs(pairs) => pairs,
                    Amount::Tokens(wanted) => wanted * lengths.len() / tokens + 1,
                };
                return Err(BenchError::RaggedPairs { known: RAGGED.len(), asked });
            };
            tokens += pair.iter().sum::<usize>();
            lengths.push(pair);
        }
        Ok(Self { kind, prompt, response, lengths })
    }

    /// The longest prompt with one answer.
    pub fn longest(&self) -> usize {
        let longest = |&[prompt, chosen, rejected]: &Lengths| prompt + chosen.max(rejected);
        self.lengths.iter().map(longest).max().unwrap_or(0)
    }

    /// A JSON-lines file of these pairs with tokens drawn uniformly from a vocabulary.
    pub fn to_jsonl(&self, vocabulary: usize, seed: u64) -> String {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        let mut text = String::new();
        for lengths in &self.lengths {
            let [prompt, chosen, rejected] = lengths.map(|len| ids(&mut generator, len, vocabulary));
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                r#"{{"prompt_input_ids":{prompt:?},"chosen_input_ids":{chosen:?},"rejected_input_ids":{rejected:?}}}"#
            );
        }
        text
    }
}

fn ids(generator: &mut impl Rng, len: usize, vocabulary: usize) -> Vec<u32> {
    (0..len).map(|_| generator.random_range(0..vocabulary as u32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Printed by the command in [`RAGGED`]'s documentation, under Python 3.11.7.
    #[test]
    fn the_table_holds_what_python_draws() {
        assert_eq!(RAGGED[..3], [[528, 94, 689], [597, 231, 120], [95, 2048, 710]]);
        assert_eq!(RAGGED[7], [196, 63, 464]);
        assert_eq!(RAGGED[52], [2048, 218, 658]);
        assert_eq!(RAGGED[63], [478, 160, 118]);
        // sum(a + b + c for a, b, c in table), and of the first eight.
        assert_eq!(RAGGED.iter().flatten().sum::<usize>(), 92_271);
        assert_eq!(RAGGED[..8].iter().flatten().sum::<usize>(), 11_608);
    }

    #[test]
    fn as_few_pairs_as_hold_the_tokens() {
        let pairs = |kind, tokens| {
            Workload::new(kind, 512, 512, Amount::Tokens(tokens)).map(|workload| workload.lengths.len())
        };
        assert_eq!(pairs(Kind::Even, 65_536).unwrap(), 43);
        assert_eq!(pairs(Kind::Even, 1536).unwrap(), 1);
        assert_eq!(pairs(Kind::Even, 1537).unwrap(), 2);
        // 528 + 94 + 689 = 1311
        assert_eq!(pairs(Kind::Ragged, 1311).unwrap(), 1);
        assert_eq!(pairs(Kind::Ragged, 1312).unwrap(), 2);
    }

    #[test]
    fn ragged_lengths_are_never_invented() {
        let make = |prompt, pairs| Workload::new(Kind::Ragged, prompt, 512, Amount::Pairs(pairs));
        assert_eq!(make(512, 64).unwrap().lengths, RAGGED);
        assert!(make(512, 65).unwrap_err().to_string().contains("has 64 pairs, 65 were asked for"));
        assert!(make(128, 8).unwrap_err().to_string().contains("--prompt 128 --response 512"));
        let tokens = Workload::new(Kind::Ragged, 512, 512, Amount::Tokens(1 << 30));
        assert!(matches!(tokens, Err(BenchError::RaggedPairs { known: 64, .. })));
    }

    #[test]
    fn a_file_of_pairs_has_these_lengths_and_this_vocabulary() {
        let workload = Workload::new(Kind::Even, 3, 5, Amount::Pairs(2)).unwrap();
        let text = workload.to_jsonl(7, 1);
        let rows: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.len(), 2);
        let column = |row: usize, name: &str| -> Vec<u64> {
            rows[row][name].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
        };
        assert_eq!([column(0, "prompt_input_ids").len(), column(1, "rejected_input_ids").len()], [3, 5]);
        assert!(column(0, "chosen_input_ids").iter().all(|&id| id < 7));
        assert_ne!(column(0, "chosen_input_ids"), column(0, "rejected_input_ids"));
        assert_eq!(workload.longest(), 8);
    }
}
