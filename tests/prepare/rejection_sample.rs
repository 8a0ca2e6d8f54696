use std::convert::Infallible;

use asft::prepare::rejection_sample::{Candidate, accept, rank};
use asft::prepare::{Ranking, SamplingConfig, rejection_sample};
use asft::progress::Silent;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{SeedableRng, TryRng};
use serde_json::{Value, json};

use crate::fixture::words;
use crate::{Files, golden, numbers};

/// Gives numbers that somebody else drew, of 53 bits each.
struct Drawn(std::vec::IntoIter<u64>);

impl TryRng for Drawn {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("only numbers of 64 bits are drawn")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next().expect("no more is drawn than the algorithm draws") << 11)
    }

    fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), Infallible> {
        unreachable!("only numbers of 64 bits are drawn")
    }
}

fn scored(scores: &[f64]) -> Vec<Candidate<usize>> {
    scores.iter().enumerate().map(|(answer, &score)| Candidate { answer, score }).collect()
}

fn answers<T: Clone>(candidates: &[Candidate<T>]) -> Vec<T> {
    candidates.iter().map(|candidate| candidate.answer.clone()).collect()
}

#[test]
fn the_published_algorithm_accepts_the_same_with_the_same_numbers() {
    let cases = golden("sampling.json");
    assert_eq!(cases.len(), 21);
    for case in cases {
        let drawn: Vec<String> = numbers(&case["drawn"]);
        let drawn: Vec<u64> = drawn.iter().map(|bits| bits.parse().unwrap()).collect();
        let mut drawn = Drawn(drawn.into_iter());
        let keep = case["keep"].as_u64().unwrap() as usize;
        let beta = case["beta"].as_f64().unwrap();
        let accepted = accept(scored(&numbers::<f64>(&case["scores"])), keep, beta, &mut drawn);
        assert_eq!(answers(&accepted), numbers::<usize>(&case["accepted"]));
        assert_eq!(drawn.0.count(), 0, "all that the algorithm drew is drawn");
    }
}

/// How often `hits` of `trials` with this probability would be further off than four standard deviations: 6 in 100,000.
#[track_caller]
fn assert_rate(hits: usize, trials: usize, probability: f64) {
    let (trials, rate) = (trials as f64, hits as f64 / trials as f64);
    let deviation = (probability * (1.0 - probability) / trials).sqrt();
    assert!(
        (rate - probability).abs() < 4.0 * deviation,
        "{rate} for {probability}, one sigma is {deviation}"
    );
}

#[test]
fn a_candidate_is_accepted_as_often_as_the_formula_says() {
    let trials = 20_000;
    for (score, beta) in [(-0.5, 0.5), (-0.1, 0.5), (-2.0, 0.5), (-0.5, 5.0), (-0.02, 0.01)] {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        // The first of two is not the best, so one is kept that is it exactly if it was accepted.
        let hits =
            (0..trials).filter(|_| answers(&accept(scored(&[score, 0.0]), 1, beta, &mut rng)) == [0]).count();
        assert_rate(hits, trials, (score / beta).exp());
    }
}

#[test]
fn accepted_candidates_follow_the_optimal_policy() {
    // Three answers with these probabilities under the policy that wrote them, and these scores; 64 candidates hold the best
    // one but in 0.9^64 = 0.1% of the cases.
    let (policy, scores, beta) = ([0.6, 0.3, 0.1], [0.0, 0.5, 1.0], 0.5);
    let weights: Vec<f64> =
        policy.iter().zip(scores).map(|(share, score): (&f64, f64)| share * (score / beta).exp()).collect();
    let all: f64 = weights.iter().sum();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let uniform = |rng: &mut ChaCha8Rng| rng.try_next_u64().unwrap() as f64 / 2f64.powi(64);
    let (trials, mut counts) = (20_000, [0; 3]);
    for _ in 0..trials {
        let kinds = (0..64).map(|_| match uniform(&mut rng) {
            share if share < policy[0] => 0,
            share if share < policy[0] + policy[1] => 1,
            _ => 2,
        });
        let candidates = kinds.map(|kind: usize| Candidate { answer: kind, score: scores[kind] }).collect();
        counts[accept(candidates, 1, beta, &mut rng)[0].answer] += 1;
    }
    for (count, weight) in counts.iter().zip(&weights) {
        let (rate, expected) = (*count as f64 / f64::from(trials), weight / all);
        assert!((rate - expected).abs() < 0.015, "{counts:?}: {rate} for {expected}");
    }
}

#[test]
fn limits_of_the_temperature() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let scores = [3.0, 9.0, 1.0, 7.0, 5.0];
    let cold = accept(scored(&scores), 3, 1e-6, &mut rng);
    assert_eq!(answers(&cold), [1, 3, 4], "the best, one a round");
    let hot = accept(scored(&scores), 3, 1e12, &mut rng);
    assert_eq!(answers(&hot), [0, 1, 2], "the first");
    assert_eq!(accept(scored(&scores), 9, 0.5, &mut rng).len(), 5, "no more than there are");
    assert_eq!(answers(&accept(scored(&[2.0, 2.0]), 2, 0.1, &mut rng)), [0, 1]);
}

#[test]
fn rankings_set_everybody_against_somebody() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let scores = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let pairs = rank(scored(&scores), Ranking::FirstRound, &mut rng);
    assert_eq!(pairs.len(), 4);
    let mut met: Vec<usize> = pairs.iter().flat_map(|pair| answers(pair)).collect();
    met.sort_unstable();
    assert_eq!(met, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert!(pairs.iter().all(|[winner, loser]| winner.score > loser.score));
    for (count, ranking, expected) in [
        (8, Ranking::Tournament, 7),
        (5, Ranking::Tournament, 4),
        (5, Ranking::FirstRound, 2),
        (1, Ranking::Tournament, 0),
    ] {
        let pairs = rank(scored(&scores[..count]), ranking, &mut rng);
        assert_eq!(pairs.len(), expected);
        if ranking == Ranking::Tournament {
            let mut lost: Vec<usize> = pairs.iter().map(|[_, loser]| loser.answer).collect();
            lost.sort_unstable();
            assert_eq!(lost, (0..count - 1).collect::<Vec<_>>(), "all but the best lose once");
        }
    }
    // By lot: with another seed others meet.
    let met = |seed| {
        let pairs = rank(scored(&scores), Ranking::FirstRound, &mut ChaCha8Rng::seed_from_u64(seed));
        pairs.iter().map(|pair| answers(pair)).collect::<Vec<_>>()
    };
    assert_ne!(met(1), met(2));
}

fn made(rows: &[Value], config: &SamplingConfig) -> Vec<Value> {
    let files = Files::new(rows);
    rejection_sample(&files.task(), config, &mut Silent).unwrap();
    files.rows("out.jsonl")
}

#[test]
fn lists_and_single_rows_give_the_same_pairs() {
    let config = SamplingConfig { keep: 4, ..SamplingConfig::default() };
    let scores = [0.25, 1.0, 0.5, 0.75, 0.0, 0.9];
    let answer = |prompt: &str, index: usize| format!("{prompt} answer {index}");
    let lists: Vec<Value> = ["p", "q"]
        .map(|prompt| {
            let candidates: Vec<_> = (0..scores.len()).map(|index| answer(prompt, index)).collect();
            json!({"prompt": prompt, "candidates": candidates, "scores": scores})
        })
        .to_vec();
    // Taken in turns, to show that rows of one prompt find each other.
    let single: Vec<Value> = (0..scores.len())
        .flat_map(|index| ["p", "q"].map(|prompt| {
            json!({"prompt": prompt, "completion": answer(prompt, index), "score": scores[index], "row": index})
        }))
        .collect();
    let pairs = made(&lists, &config);
    assert_eq!(pairs.len(), 4);
    assert_eq!(made(&single, &config), pairs);
    for pair in &pairs {
        let score = |name: &str| pair[name].as_f64().unwrap();
        assert!(score("score_chosen") > score("score_rejected"));
        let place = scores.iter().position(|other| *other == score("score_chosen")).unwrap();
        assert_eq!(pair["chosen"], answer(pair["prompt"].as_str().unwrap(), place));
    }
    // Each prompt draws for itself.
    let drawn = |prompt: &str| -> Vec<Value> {
        let own = pairs.iter().filter(|pair| pair["prompt"] == prompt);
        own.map(|pair| json!([pair["score_chosen"], pair["score_rejected"]])).collect()
    };
    assert_ne!(drawn("p"), drawn("q"));
    // A prompt's pairs do not depend on the others, nor on their order; they do on the seed.
    assert_eq!(made(&lists[1..], &config), pairs[2..]);
    let other = SamplingConfig { seed: 1, ..config };
    assert_ne!(made(&lists, &other), pairs);
}

#[test]
fn text_becomes_messages_where_they_are_wanted() {
    let ask = json!([{"role": "user", "content": "q"}]);
    let say = |words: &str| json!([{"role": "assistant", "content": words}]);
    let config = SamplingConfig { keep: 2, beta: 1e-6, ..SamplingConfig::default() };
    let text = json!({"prompt": "q", "candidates": ["a", "b", "c"], "scores": [1, 2, 3], "id": 5});
    let expected = json!({"prompt": "q", "chosen": "c", "rejected": "b", "score_chosen": 3.0, "score_rejected": 2.0, "id": 5});
    assert_eq!(made(std::slice::from_ref(&text), &config), [expected]);
    let expected = json!({"prompt": ask, "chosen": say("c"), "rejected": say("b"), "score_chosen": 3.0, "score_rejected": 2.0, "id": 5});
    assert_eq!(
        made(&[text], &SamplingConfig { as_messages: true, ..config }),
        std::slice::from_ref(&expected)
    );
    // Of equal candidates the last score counts.
    let twice = json!({"prompt": "q", "candidates": ["a", "b", "a"], "scores": [1, 2, 3]});
    let expected_twice =
        json!({"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 3.0, "score_rejected": 2.0});
    assert_eq!(made(&[twice], &config), [expected_twice]);
    let mixed = json!({"prompt": ask, "candidates": ["a", say("b"), say("c")], "scores": [1, 2, 3], "id": 5});
    assert_eq!(made(&[mixed], &config), [expected]);
}

#[test]
fn prompts_without_a_pair_are_left_out_and_mistakes_refused() {
    let config = SamplingConfig::default();
    let files = Files::new(&[
        json!({"prompt": "one", "candidates": ["a", "a"], "scores": [1, 2]}),
        json!({"prompt": "tie", "candidates": ["a", "b"], "scores": [1, 1]}),
        json!({"prompt": "none", "candidates": [], "scores": []}),
        json!({"prompt": "good", "candidates": ["a", "b"], "scores": [1, 1.5]}),
    ]);
    let report = rejection_sample(&files.task(), &config, &mut Silent).unwrap();
    assert_eq!(report.dropped("fewer than two different candidates"), 2);
    assert_eq!(report.dropped("no two scores differ among those set against each other"), 1);
    assert_eq!(report.written[0].1, 1);
    assert_eq!(
        report.notes,
        [
            (5, "of 5 different candidates accepted".to_owned()),
            (1, "pairs of equal scores left out".to_owned()),
        ]
    );
    let refused = |row: Value| {
        let files = Files::new(&[row]);
        words(&rejection_sample(&files.task(), &config, &mut Silent).unwrap_err())
    };
    for (row, said) in [
        (
            json!({"prompt": "p", "candidates": ["a"], "scores": [1, 2]}),
            "column \"scores\" holds 2 scores for 1 candidates; expected as many scores as there are candidates",
        ),
        (
            json!({"prompt": "p", "candidates": ["a", 2], "scores": [1, 2]}),
            "column \"candidates\" holds a number; expected a string or a list of messages",
        ),
        (
            json!({"prompt": "p", "candidates": ["a", "b"], "scores": [1, "2"]}),
            "column \"scores\", position 1, holds \"2\"; expected a number",
        ),
        (
            json!({"prompt": "p", "candidates": "a", "scores": [1]}),
            "column \"candidates\" holds \"a\"; expected a list",
        ),
        (
            json!({"candidates": ["a"], "scores": [1]}),
            "column \"prompt\" is missing; the row has candidates, scores",
        ),
        (
            json!({"prompt": "p", "completion": "a"}),
            "column \"score\" is missing; the row has prompt, completion",
        ),
        (json!({"prompt": "p", "completion": "a", "score": 2}), "none of the 1 rows of"),
    ] {
        let error = refused(row);
        assert!(error.contains(said), "{error}\ndoes not say\n{said}");
    }
}
