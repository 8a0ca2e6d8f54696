//! Greedy continuations.

use asft::backend::Element;
use asft::backend::cpu::CpuBackend;
use asft::checkpoint::ModelFolder;
use asft::generate::{Cache, CacheSize, Greedy};
use asft::model::{Activations, Budget, Llama, Precision, Purpose, Rungs, Use};
use asft::plan::MemoryPlan;
use serde_json::Value;

use super::harness::golden;

#[test]
fn greedy_continuations_are_those_of_transformers() {
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(golden().join("manifest.json")).unwrap()).unwrap();
    let ids = |value: &Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let all = manifest["generations"].as_array().unwrap();
    let checkpoints: std::collections::BTreeSet<&str> =
        all.iter().map(|case| case["checkpoint"].as_str().unwrap()).collect();
    for checkpoint in checkpoints {
        let cases: Vec<&Value> = all.iter().filter(|case| case["checkpoint"] == checkpoint).collect();
        let folder = ModelFolder::open(&golden().join("checkpoints").join(checkpoint)).unwrap();
        let budget = Budget { tokens: 32, rows: 4, head_rows: 4, positions: 64, rungs: Rungs::NONE };
        let mut plan = MemoryPlan::default();
        let model = Llama::plan(&mut plan, folder.config(), budget.positions, Precision::F32, Use::Inference);
        let activations =
            Activations::plan(&mut plan, folder.config(), budget, Precision::F32, Purpose::Inference);
        let cache = Cache::plan(
            &mut plan,
            folder.config(),
            CacheSize { sequences: 2, length: 64 },
            budget.tokens,
            Element::F32,
        );
        let mut backend = CpuBackend::new(2).unwrap();
        plan.allocate(&mut backend).unwrap();
        model.write_constants(&mut backend);
        model.load(&mut backend, &folder).unwrap();
        let prompts: Vec<Vec<u32>> = cases.iter().map(|case| ids(&case["prompt"])).collect();
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let mut greedy =
            Greedy { backend: &mut backend, model: &model, activations: &activations, cache: &cache };
        let answers = greedy.generate(&prompts, 24, &folder.config().eos_token_ids).unwrap();
        for (case, answer) in cases.iter().zip(answers) {
            assert_eq!(answer, ids(&case["continuation"]), "{checkpoint}: {}", case["prompt"]);
        }
    }
}
