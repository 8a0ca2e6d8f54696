use std::path::Path;

use serde_json::{Value, json};

use crate::golden::{checkpoint, done, json as json_file, repository, typed};
use crate::shell::Shell;

/// A template of its own kind: a comment, dates, and an end of turn that the tokenizer's EOS is not.
const TEMPLATE: &str = "{#- one -#}
{{- bos_token }}{{ strftime_now('%d %b %Y') if strftime_now is defined else 'no date' }}
{%- for message in messages %}
{%- if message.content == 'refused' %}
{{- raise_exception('not this one') }}
{%- endif %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Two conversations, a configuration for the tokenizer of the data tests, and the template.
fn folder() -> Shell {
    let shell = Shell::new();
    let row = |prompt: &str, chosen: &str| {
        let message = |role: &str, content: &str| json!([{ "role": role, "content": content }]);
        let (prompt, chosen) = (message("user", prompt), message("assistant", chosen));
        json!({ "prompt": prompt, "chosen": chosen, "rejected": message("assistant", "The dog.") })
            .to_string()
            + "\n"
    };
    shell.write("pairs.jsonl", row("Hello", "Hi!") + &row("What is the capital of France?", "Paris."));
    shell.write("refused.jsonl", row("Hello", "Hi!") + "\n" + &row("Hello", "refused"));
    let mut config = json_file(checkpoint("gqa-llama3") + "/config.json");
    config["vocab_size"] = json!(420);
    config["eos_token_id"] = json!(417);
    shell.write("config.json", config.to_string());
    shell.write("mine.jinja", TEMPLATE);
    shell
}

fn input() -> String {
    format!("--init config.json --tokenizer {}", repository("tests/data/golden/folder"))
}

fn train(more: &str) -> String {
    format!("train {} --data pairs.jsonl --output run --batch-size 2 --save-steps 1 {more}", input())
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_given_template_trains_and_stays_with_the_model() {
    let shell = folder();
    let asked = "--chat-template mine.jinja --template-date 2024-07-06";
    done(&shell, &train(&format!("{asked} --max-steps 2")));
    let run = shell.path().join("run");
    for folder in [run.clone(), run.join("checkpoint-1")] {
        assert_eq!(text(&folder.join("chat_template.jinja")), TEMPLATE);
        assert_eq!(json_file(folder.join("tokenizer_config.json"))["chat_template"], TEMPLATE);
        // <|im_end|> beside the <|eot_id|> that the model had.
        assert_eq!(json_file(folder.join("generation_config.json"))["eos_token_id"], json!([417, 419]));
    }
    let settings = text(&run.join("run.toml"));
    for line in ["chat_template = \"mine.jinja\"\n", "template_date = \"2024-07-06\"\n"] {
        assert!(settings.contains(line), "{settings}");
    }
    // The trained folder alone renders as the flag did.
    let inspected = |line: &str| done(&shell, &format!("inspect --json --data pairs.jsonl {line}")).stdout;
    let by_flag = inspected(&format!("{} {asked}", input()));
    assert!(by_flag.contains(r#""<|begin_of_text|>","0","6"," "#), "{by_flag}");
    assert_eq!(inspected("--model run --template-date 2024-07-06"), by_flag);
    assert_ne!(inspected("--model run"), by_flag);
    assert_ne!(inspected(&format!("{} --chat-template chatml", input())), by_flag);
}

#[test]
fn a_run_is_resumed_only_with_its_template_and_date() {
    let shell = folder();
    done(&shell, &train("--chat-template mine.jinja --max-steps 2"));
    let resume = |more: &str| typed(&shell, &train(&format!("--max-steps 3 --resume {more}")));
    let dated = resume("--chat-template mine.jinja --template-date 2024-07-06");
    assert_eq!(dated.code, 2);
    assert!(dated.stderr.contains("template_date  \"2024-07-06\"  -"), "{}", dated.stderr);
    assert_eq!(resume("").code, 2);
    // The same token ids from another text: what is written beside the model would differ.
    shell.write("mine.jinja", TEMPLATE.replace("{#- one -#}", "{#- two -#}"));
    let changed = resume("--chat-template mine.jinja");
    assert_eq!(changed.code, 2);
    assert!(changed.stderr.contains("cannot be resumed with other inputs"), "{}", changed.stderr);
    assert!(changed.stderr.contains("\n  chat_template  "), "{}", changed.stderr);
    shell.write("mine.jinja", TEMPLATE);
    assert_eq!(resume("--chat-template mine.jinja").code, 0);
}

#[test]
fn a_template_that_cannot_be_used_is_named_with_its_line() {
    let shell = folder();
    let refused = |more: &str, message: &str| {
        let ran = typed(&shell, &train(&format!("--max-steps 1 {more}")));
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains(message), "{}\ndoes not say\n{message}", ran.stderr);
        assert!(!shell.path().join("run").exists());
    };
    refused("--chat-template absent.jinja", "cannot read absent.jinja");
    shell.write("broken.jinja", "{{ bos_token }}\n{% for message in %}");
    refused("--chat-template broken.jinja", "broken.jinja: chat template, line 2: syntax error");
    refused(
        "--chat-template mine.jinja --data refused.jsonl",
        "refused.jsonl:3: the chat template refuses column \"chosen\": not this one (line 5 of the template)",
    );
    shell.write("today.jinja", "{{ bos_token }}\n{{ strftime_now('%d') }}");
    refused(
        "--chat-template today.jinja",
        "give one with --template-date YYYY-MM-DD (line 2 of the template)",
    );
    refused("--template-date 2024-7-6", "\"2024-7-6\" is no date; write it as YYYY-MM-DD, like 2024-07-26");
    let ran = typed(&shell, "plan --init config.json --data pairs.jsonl --chat-template chatml");
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("--chat-template has no effect without --tokenizer"), "{}", ran.stderr);
}

#[test]
fn tokens_that_the_tokenizer_lacks_are_warned_about() {
    let shell = folder();
    shell.write(
        "odd.jinja",
        "{{ bos_token }}{% for m in messages %}<|turn|>{{ m.content }}<|eot_id|>{% endfor %}",
    );
    let ran = done(&shell, &format!("inspect {} --data pairs.jsonl --chat-template odd.jinja", input()));
    let warning = "warning: odd.jinja: the tokenizer has no special token <|turn|>: encoded as several ordinary tokens \
                   wherever the template writes it\n";
    assert_eq!(ran.stderr, warning);
    let built_in = done(&shell, &format!("inspect {} --data pairs.jsonl --chat-template chatml", input()));
    assert_eq!(built_in.stderr, "");
}

#[test]
fn a_date_may_be_tomls_own() {
    let shell = folder();
    for (value, origin) in [("2024-07-06", "c.toml:1"), ("\"2024-07-06\"", "c.toml:1")] {
        shell.write("c.toml", format!("template_date = {value}\nmodel = \"m\"\n"));
        let expected = ("\"2024-07-06\"".to_owned(), origin.to_owned());
        assert_eq!(shell.setting("template_date", &[], &["--config", "c.toml"]), expected);
    }
    shell.write("c.toml", "template_date = 20240706\n");
    let ran = typed(&shell, "config --config c.toml");
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.contains("c.toml:1: key \"template_date\": \"20240706\" is no date"),
        "{}",
        ran.stderr
    );
}

#[test]
fn scores_are_of_the_given_template() {
    let shell = folder();
    done(&shell, &train("--chat-template mine.jinja --max-steps 1"));
    let tokens = |more: &str| {
        let ran = done(&shell, &format!("score --model run --data pairs.jsonl {more}"));
        let first: Value = serde_json::from_str(ran.stdout.lines().next().unwrap()).unwrap();
        first["chosen"]["tokens"].as_u64().unwrap()
    };
    // "H", "i", "!", and what ends a turn: one token, or one and a line break.
    assert_eq!((tokens(""), tokens("--chat-template chatml")), (4, 5));
}
