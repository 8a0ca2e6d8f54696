//! How far from the f64 twin a result may be: one table, [`Rule`] by rule, each derived from what is rounded how often.
//!
//! An element is compared on its own: `|got - exact| <= roundings * sqrt(n) * 2^-23 * scale`, and 2^-8 of its own size more
//! where the result is stored as bf16, which rounds it once. `n` is the length of the
//! longest chain of additions behind the element, given by each check; independent roundings (each at most 2^-24 of what
//! is rounded) add up like a random walk, hence the root, whose deviation is about 0.4 to 0.6 of 2^-24 per step. `scale`
//! is what is rounded: the element itself where nothing can cancel; else the root of the sum of the squared terms, which
//! is the size that a sum of terms of random sign has.
//!
//! Where the operation is a reduction, its error over the whole tensor (the root mean square of error / scale) is also
//! compared with that of the same formula written naively in f32 (`naive.rs`): that bound is close whatever the inputs,
//! and says that blocking, online softmax or anything else costs no accuracy.

use crate::device::Storage;

/// 2^-23: one unit in the last place of 1, two roundings.
pub const EPSILON: f64 = f32::EPSILON as f64;

/// The most that rounding to bf16 moves a number, relative to it: half a unit in its eighth binary place.
const BF16_ROUNDING: f64 = 1.0 / 256.0;

/// Elements from which on an error is compared with the naive one.
const FEW: usize = 48;

/// One line of the table.
pub struct Rule {
    /// Operation and result.
    pub name: &'static str,
    /// Units of 2^-23 * sqrt(n) * scale.
    pub roundings: f64,
    /// At most this many times the naive error.
    pub times_naive: f64,
    /// Why these.
    pub why: &'static str,
}

macro_rules! table {
    ($($id:ident: $name:literal, $roundings:literal, $naive:literal, $why:literal;)*) => {
        $(pub const $id: Rule =
            Rule { name: $name, roundings: $roundings, times_naive: $naive, why: $why };)*
    };
}

// name: what, units of 2^-23 * sqrt(n), times the naive error, why.
table! {
    EMBEDDING_BACKWARD: "embedding backward", 1.0, 1.0,
        "n additions in ascending order and nothing else: the naive sum itself";
    EMBEDDING_MIXED: "embedding mixed", 1.8, 1.0,
        "a rounded share, two products and a sum: at most half a unit each of 1.5 |a| + |b| (scale: the root of the squared
         terms); n = 1";
    EMBEDDING_MIXED_BACKWARD: "embedding backward, mixed", 1.5, 1.0,
        "a product (of a rounded share) and an addition for each entry, in order: the naive sum itself";
    RMSNORM_RSTD: "rmsnorm rstd", 1.0, 1.0,
        "squares rounded once, lanes of f32 within blocks, f64 beyond; the root halves what is left; n = 1";
    RMSNORM_FORWARD: "rmsnorm out", 2.0, 1.0,
        "rstd, and two products";
    RMSNORM_BACKWARD: "rmsnorm dx", 3.0, 1.0,
        "seven roundings beside the mean, whose sum is in lanes and f64; n = 1";
    RMSNORM_DWEIGHT: "rmsnorm dweight", 1.5, 1.1,
        "a chain over the rows, of terms of three roundings (two products and rstd)";
    ROPE: "rope", 2.2, 1.0,
        "at most 2^-24 for a table entry, a product and the sum: 3 * sqrt(2) / 2 with the root as scale; n = 1";
    ATTENTION_LSE: "attention log-sum-exp", 0.3, 1.5,
        "scores of D roundings, exponentials of them (scale: 1 + the largest score), an online sum over the keys";
    ATTENTION_FORWARD: "attention out", 0.25, 1.2,
        "as the log-sum-exp, and a sum over the keys that is rescaled once per tile";
    ATTENTION_BACKWARD: "attention dq, dk, dv", 1.0, 2.2,
        "weights from the rounded log-sum-exp, which sum to 1 only nearly where scores are large; dP - delta cancels";
    ATTENTION_LSE_BF16: "attention log-sum-exp, bf16", 1.0, 4.0,
        "as in f32, but tensor cores may cut where f32 rounds, and exponentials are approximate";
    ATTENTION_FORWARD_BF16: "attention out, bf16", 81920.0, 1.1,
        "2.5 * 2^-8 of the root of the sum of squared terms (scale): weights are rounded to bf16, each by up to 2^-8 of
         itself and by 0.42 of that on average, so 2.5 is 6 deviations; n = 1";
    ATTENTION_BACKWARD_BF16: "attention dq, dk, dv, bf16", 81920.0, 1.1,
        "as out: weights and dS are rounded to bf16; and delta comes from the rounded out, which is the same for all keys of
         a query; n = 1";
    SWIGLU_FORWARD: "swiglu out", 3.0, 1.2,
        "an exponential within 1.5 units, a sum, a division, a product; n = 1";
    SWIGLU_BACKWARD: "swiglu dgate, dup", 4.0, 1.2,
        "as forward, and five more operations; 1 - sigmoid cancels, so the scale has |gate| sigmoid in it; n = 1";
    MATMUL: "matmul", 2.0, 1.05,
        "a chain of k in blocks of 256, no longer than the naive one; 2 is 10 deviations, for 10^5 elements each";
    SCATTER: "scatter", 1.0, 1.0,
        "a product and an addition for each reader, in order: the naive sum itself";
    MIXTURE: "gather of two rows", 1.5, 1.0,
        "two products, their sum and a factor, 1 - k exact; n = 1";
    TARGET_LOGITS: "head target logits", 0.5, 1.0,
        "products rounded once, lanes of f32 within blocks of 1024, f64 beyond";
    HEAD_LOGP: "head log-prob", 1.0, 1.0,
        "exponentials of rounded differences (scale: relative, times 1 + their size), their sum in lanes and f64; n = 1";
    HEAD_LSE: "head log-sum-exp", 0.75, 1.0,
        "the same sum, its logarithm and the maximum in f64, rounded once; n = 1";
    HEAD_UNIT_GRADIENT: "head unit gradient", 1.5, 1.1,
        "exponential, reciprocal and product, element by element relative; n = 1";
    GRADIENT_NORM: "gradient norm", 1.0, 1.0,
        "squares rounded once, lanes of f32 within blocks of 1024 (a chain of 64), f64 beyond; n = 1";
    ADAMW_MOMENTS: "adamw moments", 2.0, 1.0,
        "two or three products and a sum each step, decays rounded to f32: n = steps";
    ADAMW_PARAMETERS: "adamw parameters", 2.0, 1.0,
        "rounded twice a step, the update lr * six roundings, the decay factor the same way each time: n = steps";
}

/// What is compared.
pub struct Comparison<'a> {
    /// Sizes and case, for the message.
    pub case: String,
    /// Length of the longest chain of additions.
    pub n: usize,
    /// The operation's result.
    pub got: &'a [f32],
    /// The twin's.
    pub exact: &'a [f64],
    /// What is rounded, by element.
    pub scale: &'a [f64],
    /// The naive result, where the operation is a reduction.
    pub naive: Option<&'a [f32]>,
}

impl Rule {
    /// Fails, naming the element, if anything in f32 is further away than the rule allows.
    pub fn judge(&self, comparison: Comparison) {
        self.judge_stored(Storage::F32, comparison);
    }

    /// The same for a result that was stored.
    pub fn judge_stored(&self, storage: Storage, comparison: Comparison) {
        let Comparison { case, n, got, exact, scale, naive } = comparison;
        let Self { name, why, .. } = self;
        assert_eq!((got.len(), got.len()), (exact.len(), scale.len()), "{name} {case}");
        let limit = self.roundings * (n.max(1) as f64).sqrt() * EPSILON;
        let mut worst = 0.0f64;
        for i in 0..got.len() {
            let error = (f64::from(got[i]) - exact[i]).abs();
            let before = limit * scale[i];
            let limit = match storage {
                Storage::F32 | Storage::Operands => before,
                Storage::Bf16 => before + BF16_ROUNDING * (exact[i].abs() + before),
            };
            assert!(
                error <= limit,
                "{name} {case}: element {i} is {} instead of {}: {:.2} times the limit ({why})",
                got[i],
                exact[i],
                error / limit
            );
            worst = worst.max(error / limit.max(f64::MIN_POSITIVE));
        }
        // The spread of a few elements is chance.
        let Some(naive) = naive.filter(|naive| naive.len() >= FEW) else {
            return println!("{name} {case}: {worst:.2} of the limit");
        };
        let naive = storage.kept(naive);
        let (ours, theirs) = (spread(got, exact, scale), spread(&naive, exact, scale));
        // Two samples of the same spread differ a little; and where naive happens to be exact, a rounding is allowed.
        let chance = 1.0 + 3.0 / (got.len() as f64).sqrt();
        let allowed = (self.times_naive * theirs * chance).max(0.25 * EPSILON);
        println!("{name} {case}: {worst:.2} of the limit, {:.2} of naive", ours / theirs);
        assert!(ours <= allowed, "{name} {case}: error {ours:e}, naive {storage:?} has {theirs:e} ({why})");
    }
}

/// Root mean square of error / scale.
fn spread(got: &[f32], exact: &[f64], scale: &[f64]) -> f64 {
    assert_eq!(got.len(), exact.len());
    let square = |i: usize| {
        let error = f64::from(got[i]) - exact[i];
        if error == 0.0 { 0.0 } else { (error / scale[i]).powi(2) }
    };
    ((0..got.len()).map(square).sum::<f64>() / got.len().max(1) as f64).sqrt()
}
