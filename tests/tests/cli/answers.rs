//! Single prompts: text, the JSON object, prompts from files, seeds, stop strings, Ctrl-C.

use std::io::Read;

use serde_json::{Value, json};
use tests::{Ran, Running, Scratch, imp_cli, run};

use crate::LLAMA;
use crate::synth::{ENDLESS, Model, VOCAB, endless};

fn answer(more: &[&str]) -> Ran {
    run(&[&["--model", LLAMA], more].concat())
}

/// Reference prompts of the model: token ids, 16 greedy tokens, last logits.
fn reference() -> Vec<Value> {
    let oracle = tests::json("tiny/llama/oracle.json");
    oracle["prompts"].as_array().expect("a list of prompts").clone()
}

fn ids(value: &Value) -> String {
    let ids = value.as_array().expect("ids").iter().map(Value::to_string);
    ids.collect::<Vec<_>>().join(",")
}

#[test]
fn greedy_answers_are_the_reference_s() {
    for prompt in reference() {
        let object = answer(&[
            "--prompt-tokens",
            &ids(&prompt["ids"]),
            "--temperature",
            "0",
            "--max-tokens",
            "16",
            "--set",
            "runtime.exact=true",
            "--json",
        ])
        .json();
        assert_eq!(object["prompt_tokens"], prompt["ids"]);
        assert_eq!(object["tokens"], prompt["greedy16"]);
    }
}

#[test]
fn prompts_are_tokenized_as_the_reference_does() {
    for prompt in reference() {
        let text = prompt["text"].as_str().expect("a text");
        let flags = ["--prompt", text, "--chat-template", "none", "--max-tokens", "0", "--json"];
        assert_eq!(answer(&flags).json()["prompt_tokens"], prompt["ids"], "{text:?}");
    }
}

#[test]
fn the_json_object_has_its_shape() {
    let greedy = ["--prompt", "hello", "--temperature", "0", "--max-tokens", "6"];
    let object = answer(&[&greedy[..], &["--json"]].concat()).json();
    let keys: Vec<&String> = object.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["text", "prompt_tokens", "tokens", "finish_reason", "timings"]);
    assert_eq!(object["tokens"].as_array().map(Vec::len), Some(6));
    assert_eq!(object["finish_reason"], "length");
    let timings = object["timings"].as_object().expect("an object");
    let keys: Vec<&String> = timings.keys().collect();
    assert_eq!(
        keys,
        [
            "prompt_n",
            "prompt_ms",
            "prompt_per_second",
            "predicted_n",
            "predicted_ms",
            "predicted_per_second"
        ]
    );
    assert!(timings.values().all(|v| v.as_f64().is_some_and(|v| v > 0.0)), "{timings:?}");
    assert_eq!(timings["prompt_n"], object["prompt_tokens"].as_array().expect("ids").len());
    assert_eq!(timings["predicted_n"], 6);

    // The same answer as text: only it and a line end on stdout, the figures on stderr.
    let ran = answer(&greedy);
    assert_eq!(ran.code, Some(0));
    assert_eq!(ran.out, format!("{}\n", object["text"].as_str().expect("a text")));
    assert!(ran.err.contains("tok/s"), "{}", ran.err);
}

#[test]
fn log_probabilities_are_those_of_the_reference() {
    let prompt = &reference()[1];
    let tokens = ids(&prompt["ids"]);
    let ask = |n: &str| {
        answer(&[
            "--prompt-tokens",
            &tokens,
            "--temperature",
            "0",
            "--max-tokens",
            "3",
            "--json",
            "--logprobs",
            n,
            "--set",
            "runtime.exact=true",
        ])
    };
    let logits: Vec<f64> =
        prompt["last_logits"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    let total = logits.iter().map(|l| l.exp()).sum::<f64>().ln();
    let all = ask("768").json();
    let entries = all["logprobs"].as_array().expect("logprobs");
    assert_eq!(entries.len(), 3);
    for entry in entries {
        let top = entry["top"].as_array().expect("top");
        assert_eq!(top.len(), 768);
        let sum: f64 = top.iter().map(|pair| pair[1].as_f64().unwrap().exp()).sum();
        assert!((sum - 1.0).abs() < 1e-4, "probabilities sum to {sum}");
        assert!(top.windows(2).all(|w| w[0][1].as_f64() >= w[1][1].as_f64()), "not sorted");
        // Greedy, so that the chosen one is the best.
        assert_eq!((&entry["token"], &entry["logprob"]), (&top[0][0], &top[0][1]));
    }
    for pair in entries[0]["top"].as_array().unwrap() {
        let id = pair[0].as_u64().unwrap() as usize;
        let difference = pair[1].as_f64().unwrap() - (logits[id] - total);
        assert!(difference.abs() < 0.01, "token {id} is off by {difference}");
    }
    let few = ask("2").json();
    assert_eq!(few["tokens"], all["tokens"]);
    assert_eq!(few["logprobs"][2]["top"].as_array().map(Vec::len), Some(2));
    let none = ask("0").json();
    assert_eq!(none["logprobs"][0]["top"], json!([]));
    assert_eq!(none["logprobs"][0]["logprob"], few["logprobs"][0]["logprob"]);
    let beyond = ask("769");
    assert_eq!(beyond.code, Some(1));
    assert!(beyond.err.contains("--logprobs 769") && beyond.err.contains("768"), "{}", beyond.err);
}

#[test]
fn greedy_answers_and_seeds_repeat_themselves() {
    let text = |flags: &str| {
        let flags: Vec<&str> = flags.split_whitespace().collect();
        let ran = answer(&[&["--prompt", "hello", "--max-tokens", "24"], &flags[..]].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        ran.out
    };
    assert_eq!(text("--temperature 0"), text("--temperature 0 --seed 5 --threads 1"));
    let hot = "--temperature 3 --top-k 0 --top-p 1";
    let seeded = |seed: &str| text(&format!("{hot} --seed {seed}"));
    assert_eq!(seeded("42"), seeded("42"));
    assert_eq!(seeded("18446744073709551615"), seeded("18446744073709551615"));
    assert_ne!(seeded("42"), seeded("43"));
    // 24 choices among 768 nearly equal tokens do not come twice by chance.
    assert_ne!(text(hot), text(hot));
}

#[test]
fn stop_strings_end_the_answer_before_them() {
    let greedy = ["--prompt", "hello", "--temperature", "0", "--max-tokens", "24", "--json"];
    let full = answer(&greedy).json()["text"].as_str().expect("a text").to_owned();
    let chars: Vec<(usize, char)> = full.char_indices().collect();
    // Three characters from the middle: a place within tokens as well as across them.
    let (at, end) = (chars[chars.len() / 2].0, chars[chars.len() / 2 + 3].0);
    let stop = &full[at..end];
    let object = answer(&[&greedy[..], &["--stop", "not there", "--stop", stop]].concat()).json();
    assert_eq!(object["text"], full[..full.find(stop).unwrap()]);
    assert_eq!(object["finish_reason"], "stop");
}

#[test]
fn no_tokens_and_too_many() {
    let object = answer(&["--prompt", "hello", "--max-tokens", "0", "--json"]).json();
    assert_eq!((&object["text"], &object["tokens"]), (&json!(""), &json!([])));
    assert_eq!(object["finish_reason"], "length");

    // A context of 32 ends the answer, and says so.
    let ran = answer(&[
        "--prompt-tokens",
        "1,5,6",
        "--max-seq-len",
        "32",
        "--temperature",
        "0",
        "--json",
    ]);
    let object = ran.json();
    let made = object["tokens"].as_array().expect("ids").len();
    assert!((29..=30).contains(&made), "{made} tokens");
    assert!(ran.err.contains("--max-seq-len"), "{}", ran.err);

    // A prompt that does not fit is refused with both numbers, never cut.
    let long = vec!["7"; 40].join(",");
    let ran = answer(&["--prompt-tokens", &long, "--max-seq-len", "32"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert!(ran.err.contains("40") && ran.err.contains("32"), "{}", ran.err);

    let ran = answer(&["--prompt-tokens", "1,768"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("768"), "{}", ran.err);
    let ran = answer(&["--prompt", "", "--chat-template", "none", "--set", "runtime.exact=true"]);
    // The vocabulary puts a token before every text, so that even none can be continued.
    assert_eq!(ran.code, Some(0), "{}", ran.err);
}

#[test]
fn prompts_come_from_files_and_pipes() {
    let scratch = Scratch::new("prompt-files");
    let text = "Grüße, 世界 🙂\nsecond line";
    let flags = ["--model", LLAMA, "--max-tokens", "0", "--json"];
    let direct = run(&[&flags[..], &["--prompt", text]].concat()).json();
    let file = scratch.file("prompt.txt", text);
    let read = run(&[&flags[..], &["--prompt-file", &file]].concat()).json();
    assert_eq!(read["prompt_tokens"], direct["prompt_tokens"]);
    let piped = |input: &[u8]| {
        let mut command = imp_cli();
        Running::start(command.args(flags).args(["--prompt-file", "-"]), input).end()
    };
    assert_eq!(piped(text.as_bytes()).json()["prompt_tokens"], direct["prompt_tokens"]);
    let wrong = scratch.file("latin1.txt", b"caf\xe9");
    for ran in [run(&[&flags[..], &["--prompt-file", &wrong]].concat()), piped(b"caf\xe9")] {
        assert_eq!(ran.code, Some(1));
        assert!(ran.err.contains("not UTF-8 (byte 3)"), "{}", ran.err);
    }
    let ran = run(&[&flags[..], &["--prompt-file", scratch.dir().to_str().unwrap()]].concat());
    assert_eq!(ran.code, Some(1), "a directory: {}", ran.err);
    assert!(ran.err.contains("--prompt-file"), "{}", ran.err);
}

#[test]
fn control_tokens_in_a_prompt_are_text_unless_it_is_taken_raw() {
    let tokens = |flags: &[&str]| {
        let prompt = ["--prompt", "</s>", "--max-tokens", "0", "--json"];
        answer(&[&prompt, flags].concat()).json()["prompt_tokens"].clone()
    };
    assert_eq!(tokens(&["--chat-template", "none"]), json!([1, 2]));
    let templated = tokens(&[]);
    let ids = templated.as_array().expect("ids");
    assert!(!ids.contains(&json!(2)), "{templated}");
}

#[test]
fn without_a_vocabulary_the_answer_is_ids() {
    let scratch = Scratch::new("no-vocab");
    let model = Model::llama().file(&scratch);
    let flags = ["--model", &model, "--prompt-tokens", "3,5,8", "--temperature", "0"];
    let ran = run(&[&flags[..], &["--max-tokens", "5"]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let ids: Vec<usize> = ran.out.split_whitespace().map(|id| id.parse().unwrap()).collect();
    assert!(ids.len() == 5 && ids.iter().all(|id| *id < VOCAB), "{}", ran.out);
    for wrong in [&["--prompt", "hello"][..], &["--interactive"], &["--perplexity", LLAMA]] {
        let ran = run(&[&["--model", &model], wrong].concat());
        assert_eq!(ran.code, Some(1), "{wrong:?}: {}", ran.err);
    }
}

#[test]
fn ctrl_c_stops_an_answer_with_its_own_exit_code() {
    let scratch = Scratch::new("ctrl-c");
    let model = endless(&scratch);
    let mut command = imp_cli();
    command.args(ENDLESS).args(["--model", &model, "--prompt", "hello"]);
    let mut running = Running::open(&mut command);
    let mut out = running.child().stdout.take().expect("piped");
    let mut text = vec![0; 64];
    out.read_exact(&mut text).expect("streaming begins");
    running.interrupt();
    out.read_to_end(&mut text).expect("a pipe can be read");
    let ran = running.end();
    assert_eq!(ran.code, Some(8), "{}", ran.err);
    assert!(ran.err.contains("cancelled") && ran.err.contains("tok/s"), "{}", ran.err);
    let text = String::from_utf8(text).expect("an answer is UTF-8");
    assert!(text.ends_with('\n'), "{text:?}");
}

#[test]
fn ctrl_c_twice_ends_the_program_whatever_it_does() {
    let scratch = Scratch::new("ctrl-c-twice");
    // A prompt that takes long: the first press waits for the step to end, the second does not.
    let prompt = scratch.file("prompt.txt", "word ".repeat(10_000));
    let mut command = imp_cli();
    command.args(ENDLESS).args(["--model", LLAMA, "--prompt-file", &prompt]);
    command.args(["--prefill-chunk-size", "0"]);
    let running = Running::start(&mut command, b"");
    let wait = |ms| std::thread::sleep(std::time::Duration::from_millis(ms));
    wait(700);
    running.interrupt();
    wait(300); // a busy machine would deliver two at once as one
    running.interrupt();
    let ran = running.end();
    assert_eq!((ran.code, ran.out.trim()), (Some(8), ""), "{}", ran.err);
}
