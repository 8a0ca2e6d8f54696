//! The model card: the `README.md` of a finished run, for the Hub and for whoever finds the folder.
//!
//! Boundary: text from what it is told. Of data files it says the names, not where they lay.

use std::fmt::Write;
use std::path::Path;

/// What a card says.
#[derive(Clone, Debug, Default)]
pub struct ModelCard<'a> {
    /// The model's name: the run folder's.
    pub name: &'a str,
    /// The model it started from. Only a Hub id (`ORG/NAME`) goes into the front matter, where the Hub would
    /// refuse anything else.
    pub base_model: Option<&'a str>,
    /// The objective's name: `asft`, `sft`, `dpo`, `orpo`.
    pub objective: &'a str,
    /// Settings worth knowing, by name.
    pub hyper_parameters: &'a [(&'a str, String)],
    /// Training data.
    pub data: &'a [&'a Path],
    /// Evaluation data, if it came in files of its own.
    pub eval_data: &'a [&'a Path],
    /// The final evaluation.
    pub evaluation: &'a [Evaluated<'a>],
    /// Whether the folder's tokenizer has a chat template.
    pub chat: bool,
    /// Whether the card lies in the run folder, beside `curves.svg` and `run.toml`; a checkpoint has neither.
    pub is_run: bool,
}

/// A line of the table of results.
#[derive(Clone, Copy, Debug)]
pub struct Evaluated<'a> {
    /// The metric's name, without `eval_`.
    pub metric: &'a str,
    /// Its value before step 1, if it was measured.
    pub before: Option<f64>,
    /// Its value after the last step.
    pub after: f64,
}

/// An objective in words and in TeX.
struct Explained {
    name: &'static str,
    title: &'static str,
    formula: &'static str,
    symbols: &'static str,
    paper: Option<&'static str>,
}

const MEANS: &str = "$a$ is the mean log-probability of an answer's tokens, $o = a - \\log(1 - e^a)$ its log-odds; \
    $w$ is the chosen answer, $l$ the rejected one.";

const OBJECTIVES: [Explained; 4] = [
    Explained {
        name: "asft",
        title: "Aligned Supervised Fine-Tuning (ASFT)",
        formula: "-c\\,a_w + \\lambda\\left[-\\log\\sigma(\\beta o_w) - \\log\\sigma(-\\beta o_l)\\right]",
        symbols: MEANS,
        paper: Some("2409.10571"),
    },
    Explained {
        name: "sft",
        title: "Supervised Fine-Tuning (SFT) on the chosen answers",
        formula: "-\\log \\pi(y_w \\mid x)",
        symbols: "$y_w$ is the chosen answer to the prompt $x$.",
        paper: None,
    },
    Explained {
        name: "dpo",
        title: "Direct Preference Optimization (DPO)",
        formula: "-\\log\\sigma\\left(\\beta\\left[\\log\\frac{\\pi(y_w \\mid x)}{\\pi_\\mathrm{ref}(y_w \\mid x)} - \
            \\log\\frac{\\pi(y_l \\mid x)}{\\pi_\\mathrm{ref}(y_l \\mid x)}\\right]\\right)",
        symbols: "$y_w$ is the chosen answer to the prompt $x$, $y_l$ the rejected one; $\\pi_\\mathrm{ref}$ is the \
            reference model.",
        paper: Some("2305.18290"),
    },
    Explained {
        name: "orpo",
        title: "Odds Ratio Preference Optimization (ORPO)",
        formula: "\\mathrm{NLL} - \\lambda \\log\\sigma(o_w - o_l)",
        symbols: MEANS,
        paper: Some("2403.07691"),
    },
];

impl ModelCard<'_> {
    /// The card as Markdown with its YAML front matter.
    pub fn to_markdown(&self) -> String {
        let mut card = self.front_matter();
        let _ = writeln!(card, "\n# {}\n", self.name);
        let origin = self.base_model.map_or_else(
            || "Trained from random weights".to_owned(),
            |base| format!("Fine-tuned from {}", code(base)),
        );
        let _ = writeln!(
            card,
            "{origin} with `asft` {}, a trainer for Llama-3-class models on preference pairs.",
            env!("CARGO_PKG_VERSION")
        );
        self.write_objective(&mut card);
        self.write_results(&mut card);
        self.write_data(&mut card);
        if !self.hyper_parameters.is_empty() {
            card.push_str("\n## Hyper-parameters\n\n| setting | value |\n| --- | --- |\n");
            for (name, value) in self.hyper_parameters {
                let _ = writeln!(card, "| {} | {} |", code(name), cell(value));
            }
            if self.is_run {
                card.push_str("\n`run.toml` holds the whole configuration.\n");
            }
        }
        self.write_usage(&mut card);
        card
    }

    fn front_matter(&self) -> String {
        let mut text = "---\nlibrary_name: transformers\npipeline_tag: text-generation\n".to_owned();
        if let Some(base) = self.base_model.filter(|base| is_hub_id(base)) {
            let _ = writeln!(text, "base_model: {base}");
        }
        let _ = writeln!(text, "tags:\n- llama\n- alignment\n- preference-optimization");
        if self.objective.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
            let _ = writeln!(text, "- {}", self.objective);
        }
        text.push_str("---\n");
        text
    }

    fn write_objective(&self, card: &mut String) {
        let Some(known) = OBJECTIVES.iter().find(|known| known.name == self.objective) else {
            let _ = writeln!(card, "\n## Objective\n\n{}", code(self.objective));
            return;
        };
        let _ = writeln!(card, "\n## Objective\n\n{}:", known.title);
        let _ = writeln!(card, "\n$$L = {}$$\n\n{}", known.formula, known.symbols);
        if let Some(paper) = known.paper {
            let _ = writeln!(card, "\nPaper: [arXiv:{paper}](https://arxiv.org/abs/{paper}).");
        }
        if known.name == "asft" {
            card.push_str("This is *Aligned* Supervised Fine-Tuning, not Anchored SFT (arXiv:2509.23753).\n");
        }
    }

    fn write_results(&self, card: &mut String) {
        if self.evaluation.is_empty() {
            return;
        }
        card.push_str("\n## Results on the evaluation data\n\n");
        let with_before = self.evaluation.iter().any(|row| row.before.is_some());
        card.push_str(if with_before {
            "| metric | before | after |\n| --- | ---: | ---: |\n"
        } else {
            "| metric | value |\n| --- | ---: |\n"
        });
        for row in self.evaluation {
            let before = match row.before {
                Some(before) => format!(" {before:.4} |"),
                None if with_before => " |".to_owned(),
                None => String::new(),
            };
            let _ = writeln!(card, "| {} |{before} {:.4} |", code(row.metric), row.after);
        }
        if self.is_run {
            card.push_str("\n![Training curves](curves.svg)\n");
        }
    }

    fn write_data(&self, card: &mut String) {
        let names = |paths: &[&Path]| {
            let name = |path: &&Path| code(&path.file_name().unwrap_or(path.as_os_str()).to_string_lossy());
            paths.iter().map(name).collect::<Vec<_>>().join(", ")
        };
        if !self.data.is_empty() {
            let _ = writeln!(card, "\n## Data\n\nTraining: {}", names(self.data));
        }
        if !self.eval_data.is_empty() {
            let _ = writeln!(card, "\nEvaluation: {}", names(self.eval_data));
        }
    }

    fn write_usage(&self, card: &mut String) {
        let prompt = if self.chat {
            "messages = [{\"role\": \"user\", \"content\": \"...\"}]\n\
             inputs = tokenizer.apply_chat_template(\n    \
             messages, add_generation_prompt=True, return_tensors=\"pt\", return_dict=True\n)\n"
        } else {
            "inputs = tokenizer(\"...\", return_tensors=\"pt\")\n"
        };
        let _ = write!(
            card,
            "\n## Use\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
             path = \"...\"  # this folder\n\
             tokenizer = AutoTokenizer.from_pretrained(path)\n\
             model = AutoModelForCausalLM.from_pretrained(path)\n\
             {prompt}\
             output = model.generate(**inputs, max_new_tokens=256)\n\
             print(tokenizer.decode(output[0, inputs[\"input_ids\"].shape[1]:], skip_special_tokens=True))\n```\n"
        );
    }
}

/// Whether a name is `ORG/NAME` as the Hub allows it, and not a path.
fn is_hub_id(name: &str) -> bool {
    let part = |part: &str| {
        part.chars().next().is_some_and(|c| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    name.split_once('/').is_some_and(|(organisation, name)| part(organisation) && part(name))
}

/// Inline code, whatever the text holds.
fn code(text: &str) -> String {
    if text.contains('`') { format!("`` {} ``", cell(text)) } else { format!("`{}`", cell(text)) }
}

/// Text that does not end a table's cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
