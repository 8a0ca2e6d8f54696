//! Every backward pass against finite differences of its forward pass, and forward passes against facts that
//! are known without computing them.

use crate::reference::attention::{self, Heads, Inputs, KeyRange, Segment};
use crate::reference::objective::{self, Hyper, Pair, Scored};
use crate::reference::rope::{self, Scaling};
use crate::reference::schedule::{self, Schedule};
use crate::reference::{adamw, clip, embedding, gather, head, matmul, rmsnorm, swiglu};
use crate::reference::{dot, finite_differences, max_abs_difference, normal, relative_l2};

/// What central differences with step 1e-5 can be trusted to, for values of order one.
const FINITE_DIFFERENCES: f64 = 1e-8;

/// `gradient` against the finite differences of `sum of d_out * forward(x)`.
fn check(label: &str, x: &[f64], d_out: &[f64], gradient: &[f64], forward: impl Fn(&[f64]) -> Vec<f64>) {
    let expected = finite_differences(x, |x| dot(d_out, &forward(x)));
    assert!(expected.iter().any(|e| *e != 0.0), "{label}: nothing to compare");
    let difference = relative_l2(gradient, &expected);
    assert!(difference <= FINITE_DIFFERENCES, "{label}: relative difference {difference:e}");
}

#[test]
fn matmul_layouts_agree() {
    // 2x3 times 3x2 by hand.
    let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let b = [7.0, 8.0, 9.0, 10.0, 11.0, 12.0];
    let expected = [58.0, 64.0, 139.0, 154.0];
    assert_eq!(matmul::nn(&a, &b, 2, 2, 3), expected);
    assert_eq!(matmul::nt(&a, &[7.0, 9.0, 11.0, 8.0, 10.0, 12.0], 2, 2, 3), expected);
    assert_eq!(matmul::tn(&[1.0, 4.0, 2.0, 5.0, 3.0, 6.0], &b, 2, 2, 3), expected);
}

#[test]
fn matmul_gradients() {
    let (rows, inputs, outputs) = (3, 5, 4);
    let (x, w, dy) = (normal(1, rows * inputs), normal(2, outputs * inputs), normal(3, rows * outputs));
    let dx = matmul::nn(&dy, &w, rows, inputs, outputs);
    let dw = matmul::tn(&dy, &x, outputs, inputs, rows);
    check("dx", &x, &dy, &dx, |x| matmul::nt(x, &w, rows, outputs, inputs));
    check("dw", &w, &dy, &dw, |w| matmul::nt(&x, w, rows, outputs, inputs));
}

#[test]
fn embedding_gradient() {
    let (ids, hidden, vocabulary) = ([4, 0, 4, 2], 3, 5);
    let (table, d_out) = (normal(1, vocabulary * hidden), normal(2, ids.len() * hidden));
    let d_table = embedding::backward(&ids, &d_out, vocabulary, hidden);
    check("table", &table, &d_out, &d_table, |table| embedding::forward(&ids, table, hidden));
    assert_eq!(embedding::forward(&ids, &table, hidden)[..hidden], table[4 * hidden..]);
}

#[test]
fn mixed_embedding_gradient() {
    let (ids, others, weight, hidden, vocabulary) = ([4, 0, 4, 2], [4, 4, 1, 0], 0.3, 3, 5);
    let (table, d_out) = (normal(1, vocabulary * hidden), normal(2, ids.len() * hidden));
    let d_table = embedding::mixed_backward(&ids, &others, weight, &d_out, [vocabulary, hidden]);
    let mixed = |table: &[f64]| embedding::mixed(&ids, &others, weight, table, hidden);
    check("table", &table, &d_out, &d_table, mixed);
    assert_eq!(d_table[3 * hidden..4 * hidden], [0.0; 3], "a row nobody used");
}

#[test]
fn gather_gradient() {
    let (width, rows) = (3, 4);
    let mut outputs = gather::plain(&[2, 0, 2]);
    outputs.push(vec![(1, 0.25), (2, 0.75)]);
    let (x, d_out) = (normal(1, rows * width), normal(2, outputs.len() * width));
    let d_x = gather::backward(&d_out, width, &outputs, rows);
    check("x", &x, &d_out, &d_x, |x| gather::forward(x, width, &outputs));
    assert_eq!(d_x[3 * width..], [0.0; 3], "a row nobody used");
    assert_eq!(gather::forward(&x, width, &outputs)[..width], x[2 * width..3 * width]);
}

#[test]
fn rmsnorm_gradients() {
    let (tokens, hidden, eps) = (3, 6, 1e-2);
    let (x, residual) = (normal(1, tokens * hidden), normal(2, tokens * hidden));
    let (weight, d_out) = (normal(3, hidden), normal(4, tokens * hidden));
    let d_sum = normal(5, tokens * hidden);
    let saved = rmsnorm::forward(&x, Some(&residual), &weight, eps);
    let (d_x, d_weight) = rmsnorm::backward(&saved, &weight, &d_out, Some(&d_sum));
    // Both results of the forward pass count: the norm and the residual stream.
    let both = [d_out.clone(), d_sum].concat();
    let run = |x: &[f64], residual: &[f64]| {
        let forward = rmsnorm::forward(x, Some(residual), &weight, eps);
        [forward.out, forward.sum].concat()
    };
    check("x", &x, &both, &d_x, |x| run(x, &residual));
    check("residual", &residual, &both, &d_x, |residual| run(&x, residual));
    check("weight", &weight, &d_out, &d_weight, |w| rmsnorm::forward(&x, Some(&residual), w, eps).out);
    let (alone, _) = rmsnorm::backward(&saved, &weight, &d_out, None);
    check("x without the stream", &x, &d_out, &alone, |x| run(x, &residual)[..tokens * hidden].to_vec());
}

#[test]
fn rope_gradient_and_facts() {
    let (heads, size) = (2, 8);
    let frequencies = rope::inverse_frequencies(size, 100.0, &Scaling::None);
    let positions = [0, 1, 7];
    let (x, d_out) = (normal(1, positions.len() * heads * size), normal(2, positions.len() * heads * size));
    let d_x = rope::backward(&d_out, &positions, heads, &frequencies);
    check("x", &x, &d_out, &d_x, |x| rope::forward(x, &positions, heads, &frequencies));
    let out = rope::forward(&x, &positions, heads, &frequencies);
    assert_eq!(out[..heads * size], x[..heads * size], "position 0 turns nothing");
    // A score depends on the distance of the two positions only.
    let (q, k) = (normal(3, size), normal(4, size));
    let score = |at_q, at_k| {
        dot(&rope::forward(&q, &[at_q], 1, &frequencies), &rope::forward(&k, &[at_k], 1, &frequencies))
    };
    assert!((score(9, 4) - score(25, 20)).abs() < 1e-12);
    assert!((score(9, 4) - score(9, 5)).abs() > 1e-3);
}

/// Values of transformers' `_compute_llama3_parameters` (5.23.0) for theta 10000, D 8, factor 8, 1, 4, 64,
/// computed there in f32, hence the bound: one frequency kept, one blended, two divided.
#[test]
fn rope_llama3_bands() {
    let scaling = Scaling::Llama3 {
        factor: 8.0,
        low_frequency_factor: 1.0,
        high_frequency_factor: 4.0,
        original_context: 64.0,
    };
    let got = rope::inverse_frequencies(8, 10_000.0, &scaling);
    let plain = rope::inverse_frequencies(8, 10_000.0, &Scaling::None);
    for (i, expected) in LLAMA3_FREQUENCIES.iter().enumerate() {
        assert!((got[i] / expected - 1.0).abs() < 1e-6, "frequency {i}: {} not {expected}", got[i]);
    }
    assert_eq!(got[0], plain[0]);
    assert_eq!(got[3], plain[3] / 8.0);
    let linear = rope::inverse_frequencies(8, 10_000.0, &Scaling::Linear { factor: 2.0 });
    assert_eq!(linear[1], plain[1] / 2.0);
}

const LLAMA3_FREQUENCIES: [f64; 4] =
    [1.0, 0.013042256236076355, 0.0012499999720603228, 0.0001250000059371814];

const HEADS: Heads = Heads { query: 4, key_value: 2, size: 3 };

/// A prompt of 3 rows, two answers of 2 and 4 rows that see the prompt and themselves.
fn shared_prompt() -> Vec<Segment> {
    let prompt = KeyRange { kv_row: 0, len: 3, causal_offset: 3 };
    let own = |kv_row, len| KeyRange { kv_row, len, causal_offset: 0 };
    vec![
        Segment { query_row: 0, len: 3, ranges: vec![own(0, 3)] },
        Segment { query_row: 3, len: 2, ranges: vec![prompt, own(3, 2)] },
        Segment { query_row: 5, len: 4, ranges: vec![prompt, own(5, 4)] },
    ]
}

fn attention_inputs(seed: u64, rows: usize) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let query = normal(seed, rows * HEADS.query * HEADS.size);
    let kv = rows * HEADS.key_value * HEADS.size;
    (query, normal(seed + 1, kv), normal(seed + 2, kv))
}

#[test]
fn attention_gradients() {
    let segments = shared_prompt();
    let (q, k, v) = attention_inputs(1, 9);
    let d_out = normal(9, q.len());
    let d = attention::backward(HEADS, &segments, Inputs { q: &q, k: &k, v: &v }, &d_out);
    let run = |q: &[f64], k: &[f64], v: &[f64]| attention::forward(HEADS, &segments, Inputs { q, k, v }).out;
    check("dq", &q, &d_out, &d.dq, |q| run(q, &k, &v));
    check("dk", &k, &d_out, &d.dk, |k| run(&q, k, &v));
    check("dv", &v, &d_out, &d.dv, |v| run(&q, &k, v));
}

/// Two key ranges are the same as one sequence in which they lie side by side; so is a one-row segment that
/// decodes.
#[test]
fn attention_ranges_equal_whole_sequences() {
    let (q, k, v) = attention_inputs(20, 9);
    let packed = attention::forward(HEADS, &shared_prompt(), Inputs { q: &q, k: &k, v: &v });
    let rows = [0, 1, 2, 5, 6, 7, 8]; // the prompt and the second answer
    let pick = |x: &[f64]| gather::forward(x, x.len() / 9, &gather::plain(&rows));
    let (q, k, v) = (pick(&q), pick(&k), pick(&v));
    let inputs = Inputs { q: &q, k: &k, v: &v };
    let causal = KeyRange { kv_row: 0, len: 7, causal_offset: 0 };
    let alone = attention::forward(HEADS, &[Segment { query_row: 0, len: 7, ranges: vec![causal] }], inputs);
    assert!(max_abs_difference(&pick(&packed.out), &alone.out) < 1e-15);
    assert!(max_abs_difference(&pick(&packed.lse), &alone.lse) < 1e-15);

    let cached = KeyRange { kv_row: 0, len: 7, causal_offset: 6 };
    let decode = attention::forward(HEADS, &[Segment { query_row: 6, len: 1, ranges: vec![cached] }], inputs);
    let last = 6 * HEADS.query * HEADS.size;
    assert_eq!(decode.out[last..], alone.out[last..]);
    assert!(decode.out[..last].iter().all(|o| *o == 0.0), "rows in no segment");
    assert!(decode.lse[..6 * HEADS.query].iter().all(|l| *l == f64::NEG_INFINITY));
}

/// With equal scores the softmax is the mean of the visible values: that shows who sees what, without any
/// arithmetic.
#[test]
fn attention_mask_is_the_stated_one() {
    let heads = Heads { query: 2, key_value: 1, size: 1 };
    let (q, k) = (vec![0.0; 4], vec![0.0; 6]);
    let v: Vec<f64> = (0..6).map(|row| f64::from(1u32 << row)).collect();
    let ranges = vec![
        KeyRange { kv_row: 4, len: 2, causal_offset: 0 },
        KeyRange { kv_row: 0, len: 3, causal_offset: 1 },
    ];
    let segment = Segment { query_row: 0, len: 2, ranges };
    let got = attention::forward(heads, &[segment], Inputs { q: &q, k: &k, v: &v });
    let (first, second): (f64, f64) = (1.0 + 2.0 + 16.0, 1.0 + 2.0 + 4.0 + 16.0 + 32.0);
    let expected = [first / 3.0, first / 3.0, second / 5.0, second / 5.0];
    assert!(max_abs_difference(&got.out, &expected) < 1e-14);
    let counts = [3f64, 3.0, 5.0, 5.0].map(f64::ln);
    assert!(max_abs_difference(&got.lse, &counts) < 1e-14);
}

#[test]
fn swiglu_gradients() {
    let (gate, up, d_out) = (normal(1, 9), normal(2, 9), normal(3, 9));
    let (d_gate, d_up) = swiglu::backward(&gate, &up, &d_out);
    check("gate", &gate, &d_out, &d_gate, |gate| swiglu::forward(gate, &up));
    check("up", &up, &d_out, &d_up, |up| swiglu::forward(&gate, up));
    // silu(ln 3) = 3/4 ln 3
    let ln3 = 3f64.ln();
    assert!((swiglu::forward(&[ln3], &[2.0])[0] - 1.5 * ln3).abs() < 1e-15);
}

#[test]
fn head_gradient() {
    let vocabulary = 7;
    let targets = [head::plain(3), vec![(1, 0.4), (6, 0.6)], head::plain(0)];
    let (z, g) = (normal(1, targets.len() * vocabulary), normal(2, targets.len()));
    let rows = head::rows(&z, vocabulary, &targets);
    let d_z: Vec<f64> =
        rows.iter().zip(&g).flat_map(|(row, g)| row.unit_gradient.iter().map(move |u| g * u)).collect();
    check("logits", &z, &g, &d_z, |z| head::rows(z, vocabulary, &targets).iter().map(|r| r.logp).collect());
}

/// Logits whose softmax is known: p = 1/2, 1/4, 1/8, 1/8.
#[test]
fn head_row_statistics() {
    let z = [8.0, 4.0, 2.0, 2.0].map(f64::ln);
    let ln2 = 2f64.ln();
    let row = &head::rows(&z, 4, &[head::plain(1)])[0];
    let got = [row.logp, row.lse, row.sum_p_squared, row.entropy, row.mean_logit];
    let expected = [-2.0 * ln2, 4.0 * ln2, 11.0 / 32.0, 1.75 * ln2, 1.75 * ln2];
    assert!(max_abs_difference(&got, &expected) < 1e-15, "{got:?}");
    assert_eq!(row.argmax, 0);
    assert!(max_abs_difference(&row.unit_gradient, &[-0.5, 0.75, -0.125, -0.125]) < 1e-15);
    let tie = &head::rows(&[1.0, 3.0, 3.0], 3, &[head::plain(0)])[0];
    assert_eq!(tie.argmax, 1, "the first of equals");
}

#[test]
fn head_keeps_its_precision_at_both_ends() {
    // One other logit, 40 below: 1 - p = e^-40 / (1 + e^-40), log p = -log1p(e^-40).
    let tail = (-40f64).exp();
    let sure = &head::rows(&[40.0, 0.0], 2, &[head::plain(0)])[0];
    assert!((sure.logp / -tail - 1.0).abs() < 1e-12, "{}", sure.logp);
    assert!((sure.unit_gradient[0] / tail - 1.0).abs() < 1e-12);
    let hopeless = &head::rows(&[-1000.0, 1000.0], 2, &[head::plain(0)])[0];
    assert_eq!((hopeless.logp, hopeless.unit_gradient[0]), (-2000.0, 1.0));
}

#[test]
fn objective_coefficients() {
    let hyper = Hyper { asft_lambda: 0.5, asft_beta: 0.7, orpo_lambda: 0.1, dpo_beta: 0.1 };
    let lengths = [(3, 5, 4), (1, 1, 6), (4, 2, 1)]; // prompt, chosen, rejected
    // The log-probs of all sequences in one vector, so that it can be varied as a whole.
    let pairs_from = |flat: &[f64]| {
        let mut rest = flat;
        let mut take = |prompt: usize, answer: usize| {
            let (logps, tail) = rest.split_at(prompt - 1 + answer);
            rest = tail;
            Scored { prompt, logps: logps.to_vec() }
        };
        let pairs: Vec<Pair> = lengths
            .iter()
            .map(|&(prompt, chosen, rejected)| Pair {
                chosen: take(prompt, chosen),
                rejected: take(prompt, rejected),
                reference: Some((-3.0, -2.5)),
            })
            .collect();
        assert!(rest.is_empty());
        pairs
    };
    let tokens = lengths.iter().map(|(prompt, chosen, rejected)| 2 * (prompt - 1) + chosen + rejected).sum();
    let flat: Vec<f64> = normal(1, tokens).iter().map(|x| -x.abs() - 0.02).collect();
    let names = [
        "sft_token_mean",
        "sft_seq_mean",
        "sft_full_token_mean",
        "asft",
        "asft_token_mean_sft",
        "asft_beta",
        "orpo_trl",
        "orpo_completion_nll",
        "orpo_seq_nll",
        "dpo",
    ];
    for name in names {
        let outcome = objective::evaluate(name, &pairs_from(&flat), &hyper);
        let sides = outcome.chosen.iter().zip(&outcome.rejected);
        let got: Vec<f64> = sides.flat_map(|(c, r)| [c.clone(), r.clone()].concat()).collect();
        check(name, &flat, &[1.0], &got, |flat| {
            vec![objective::evaluate(name, &pairs_from(flat), &hyper).loss]
        });
    }
}

/// The first step of Adam moves every parameter by the learning rate against the sign of its gradient, after
/// the decay.
#[test]
fn adamw_first_step() {
    let adamw = adamw::AdamW { beta1: 0.9, beta2: 0.95, epsilon: 0.0, weight_decay: 0.1 };
    let mut parameter = [2.0, -1.0];
    let mut moments = adamw::Moments::zeros(2);
    adamw.update(1, 0.01, &mut parameter, &[30.0, -0.002], &mut moments);
    assert!(max_abs_difference(&parameter, &[2.0 * 0.999 - 0.01, -0.999 + 0.01]) < 1e-15);
}

#[test]
fn clip_only_shortens() {
    let norm = clip::global_norm([&[3.0][..], &[0.0, 4.0][..]]);
    assert_eq!(norm, 5.0);
    assert_eq!(clip::factor(norm, 1.0), 1.0 / 5.000001);
    assert_eq!(clip::factor(norm, 6.0), 1.0);
}

/// Against values that follow from the definitions: warm-up over 4 of 12 steps, halves at the middle.
#[test]
fn schedules() {
    let at = |schedule, step| schedule::factor(schedule, step, 4, 12);
    for schedule in [Schedule::Constant, Schedule::Linear, Schedule::Cosine] {
        let warmup: Vec<f64> = (0..5).map(|step| at(schedule, step)).collect();
        assert_eq!(warmup, [0.0, 0.25, 0.5, 0.75, 1.0], "{schedule:?}");
    }
    assert_eq!((at(Schedule::Constant, 8), at(Schedule::Constant, 12)), (1.0, 1.0));
    assert_eq!((at(Schedule::Linear, 10), at(Schedule::Linear, 12)), (0.25, 0.0));
    assert!((at(Schedule::Cosine, 8) - 0.5).abs() < 1e-15);
    assert!((at(Schedule::Cosine, 6) - (0.5 + 0.5 * 0.5f64.sqrt())).abs() < 1e-15);
    assert!(at(Schedule::Cosine, 12).abs() < 1e-15);
    assert_eq!(schedule::factor(Schedule::Linear, 0, 0, 12), 1.0, "no warm-up");
}
