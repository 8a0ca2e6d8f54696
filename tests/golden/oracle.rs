//! The same comparisons with a larger oracle, where there is one: a folder with `checkpoints/`, `batches/` and `out/`
//! named by `ASFT_ORACLE`, or `../shared/oracle` beside the project.

use std::path::PathBuf;

use safetensors::SafeTensors;
use serde_json::Value;

use super::GRADIENT;
use super::harness::*;
use super::skip;
use super::step::{check_gradients, check_log_probs};
use super::training::check_run;

fn oracle(test: &str) -> Option<PathBuf> {
    skip::outside(test, "ASFT_ORACLE", "oracle")
}

/// (file stem, checkpoint, batch) of every result.
fn results(oracle: &std::path::Path) -> Vec<(PathBuf, PathBuf, PathBuf)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(oracle.join("out")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let (checkpoint, batch) = stem.rsplit_once('.').unwrap();
            let batch = oracle.join("batches").join(batch).with_extension("json");
            all.push((path.clone(), oracle.join("checkpoints").join(checkpoint), batch));
        }
    }
    all.sort();
    all
}

fn reference(checkpoint: &std::path::Path) -> Option<PathBuf> {
    let folder = checkpoint.with_file_name(format!("{}-ref", checkpoint.file_name().unwrap().display()));
    folder.is_dir().then_some(folder)
}

#[test]
fn oracle_log_probs_and_gradients() {
    let Some(oracle) = oracle("oracle_log_probs_and_gradients") else { return };
    let mut compared = 0;
    for (path, checkpoint, batch) in results(&oracle) {
        let bytes = std::fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let json: Value =
            serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap()).unwrap();
        let mut groups = oracle_groups(&batch);
        check_log_probs(
            &checkpoint,
            &groups,
            &stored(&tensors, "token_logps_all"),
            &path.display().to_string(),
        );
        if let Some(reference) = reference(&checkpoint) {
            groups = with_reference(&CPU, groups, &reference);
        }
        for (name, loss) in json["f64"].as_object().unwrap() {
            if name.starts_with("gradnorm")
                || tensors.names().iter().all(|n| !n.starts_with(&format!("grad.{name}.")))
            {
                continue;
            }
            let gradient = |parameter: &str| stored(&tensors, &format!("grad.{name}.{parameter}"));
            check_gradients(&checkpoint, &groups, name, loss.as_f64().unwrap(), gradient, GRADIENT);
            compared += 1;
        }
    }
    assert!(compared > 10, "only {compared} objectives were compared");
}

#[test]
fn oracle_twenty_steps() {
    let Some(oracle) = oracle("oracle_twenty_steps") else { return };
    let (mut compared, mut weights_compared) = (0, 0);
    for (path, checkpoint, _) in results(&oracle) {
        let json: Value =
            serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap()).unwrap();
        let Some(runs) = json["f64.train"].as_object() else { continue };
        let bytes = std::fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        for (name, steps) in runs {
            let mut groups = oracle_groups(&oracle.join("batches/train12.json"));
            if let Some(reference) = reference(&checkpoint) {
                groups = with_reference(&CPU, groups, &reference);
            }
            let number = |step: &Value, key: &str| step[key].as_f64().unwrap();
            let curve: Vec<_> = steps
                .as_array()
                .unwrap()
                .iter()
                .map(|s| (number(s, "loss"), number(s, "grad_norm_before_clip"), number(s, "lr")))
                .collect();
            let weights = |parameter: &str| {
                let name = format!("train_final.{name}.{parameter}");
                tensors.names().contains(&name.as_str()).then(|| stored(&tensors, &name))
            };
            weights_compared += check_run(&checkpoint, groups, name, &curve, weights);
            compared += 1;
        }
    }
    assert!(compared >= 8 && weights_compared > 50, "only {compared} runs and {weights_compared} weights");
}
