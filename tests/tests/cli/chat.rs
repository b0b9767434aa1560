//! `--interactive` through a pipe, one input a line.

use std::io::{BufReader, Read, Write};

use serde_json::{Value, json};
use tests::{Ran, Running, Scratch, imp_cli, run};

use crate::LLAMA;
use crate::synth::{ENDLESS, endless};

const GREEDY: [&str; 7] =
    ["--model", LLAMA, "--interactive", "--temperature", "0", "--max-tokens", "5"];

fn chat(lines: &[&str]) -> Ran {
    let mut command = imp_cli();
    Running::start(command.args(GREEDY), format!("{}\n", lines.join("\n")).as_bytes()).end()
}

/// The conversation that a chat saves.
fn saved(scratch: &Scratch, lines: &[&str]) -> (Ran, Vec<Value>) {
    let path = scratch.dir().join("saved.json");
    let save = format!("/save {}", path.display());
    let ran = chat(&[lines, &[&save]].concat());
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{e}: {}", ran.err));
    let value: Value = serde_json::from_str(&text).expect("JSON");
    let messages = value.as_array().expect("an array of messages").clone();
    (ran, messages)
}

fn content(message: &Value) -> &str {
    message["content"].as_str().expect("a text")
}

#[test]
fn turns_are_answered_and_only_answers_go_to_stdout() {
    let scratch = Scratch::new("turns");
    let (ran, messages) = saved(&scratch, &["hello", "", "and then?"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let roles: Vec<&Value> = messages.iter().map(|m| &m["role"]).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
    assert_eq!((content(&messages[0]), content(&messages[2])), ("hello", "and then?"));
    assert_eq!(ran.out, format!("{}\n{}\n", content(&messages[1]), content(&messages[3])));
    // The second prompt holds the first turn, which is in the cache.
    assert!(ran.err.contains("more from the cache"), "{}", ran.err);

    // The first answer is that of a single prompt.
    let single =
        run(&["--model", LLAMA, "--prompt", "hello", "--temperature", "0", "--max-tokens", "5"]);
    assert_eq!(single.out, format!("{}\n", content(&messages[1])));
}

#[test]
fn clear_forgets_and_regen_repeats() {
    let ran = chat(&["hello", "and then?", "/clear", "hello", "/regen", "/exit", "never read"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let answers: Vec<&str> = ran.out.lines().collect();
    assert_eq!(answers.len(), 4, "{:?} {}", ran.out, ran.err);
    assert_ne!(answers[0], answers[1]);
    assert_eq!((answers[2], answers[3]), (answers[0], answers[0]));
}

#[test]
fn conversations_are_saved_and_loaded() {
    let scratch = Scratch::new("conversations");
    let (ran, messages) = saved(&scratch, &["hello", "and then?"]);
    let second = ran.out.lines().nth(1).expect("two answers");
    let file = scratch.file("first.json", Value::Array(messages[..2].to_vec()).to_string());
    let ran = chat(&[&format!("/load {file}"), "and then?"]);
    assert_eq!(ran.out, format!("{second}\n"), "{}", ran.err);
    let system = json!([{"role": "system", "content": "Be brief."}]).to_string();
    let system = scratch.file("system.json", system);
    let (_, messages) = saved(&scratch, &[&format!("/load {system}"), "hello"]);
    assert_eq!((messages.len(), &messages[0]["role"]), (3, &json!("system")));
    for (name, text) in [("not.json", "{"), ("role.json", r#"[{"role":"x","content":""}]"#)] {
        let file = scratch.file(name, text);
        let ran = chat(&[&format!("/load {file}"), "hello"]);
        assert_eq!((ran.code, ran.out.lines().count()), (Some(0), 1), "{}", ran.err);
        assert!(ran.err.contains(&file), "{}", ran.err);
    }
}

#[test]
fn settings_change_the_next_answer() {
    let ran = chat(&["hello", "/clear", "/set max_tokens=2", "hello", "/set"]);
    let answers: Vec<&str> = ran.out.lines().collect();
    assert!(answers[0].len() > answers[1].len(), "{answers:?}");
    assert!(answers[0].starts_with(answers[1]), "{answers:?}");
    assert!(ran.err.contains("temperature") && ran.err.contains("mirostat"), "{}", ran.err);
}

#[test]
fn wrong_commands_say_what_was_meant_and_the_chat_goes_on() {
    for (line, part) in [
        ("/hlep", "did you mean /help?"),
        ("/frobnicate", "/help lists them"),
        ("/set temprature=1", "did you mean temperature?"),
        ("/set temperature=-1", "temperature is -1"),
        ("/set temperature", "key=value"),
        ("/regen", "no turn"),
        ("/save", "file name"),
        ("/save /no/such/dir/file", "/no/such/dir/file"),
        ("/load no-such-file", "no-such-file"),
        ("/image cat.png", "not supported"),
        ("/exit now", "takes no argument"),
    ] {
        let ran = chat(&[line, "hello"]);
        assert_eq!(ran.code, Some(0), "{line}: {}", ran.err);
        assert!(ran.err.contains(part), "{line}: {}", ran.err);
        assert_eq!(ran.out.lines().count(), 1, "{line}: {:?}", ran.out);
    }
    let help = chat(&["/help"]);
    assert_eq!(help.out, "");
    let commands = ["/help", "/clear", "/regen", "/save", "/load", "/image", "/set", "/exit"];
    for command in commands {
        assert!(help.err.contains(command), "{command}: {}", help.err);
    }
}

#[test]
fn inputs_of_several_lines_and_slashes() {
    let scratch = Scratch::new("lines");
    let lines = ["one\\", "two", "\"\"\"", "/three", "four", "\"\"\"", "//five"];
    let (_, messages) = saved(&scratch, &lines);
    let turns: Vec<&str> = messages.iter().step_by(2).map(content).collect();
    // Within a block a leading slash begins a command like anywhere else, so `/three` is refused.
    assert_eq!(turns, ["one\ntwo", "/five"]);
    let lines = ["\"\"\"", "//three", "four", "\"\"\""];
    let (_, messages) = saved(&scratch, &lines);
    assert_eq!(content(&messages[0]), "/three\nfour");
}

#[test]
fn input_that_is_not_utf8_is_refused() {
    let mut command = imp_cli();
    let ran = Running::start(command.args(GREEDY), b"caf\xe9\n").end();
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{}", ran.err);
    assert!(ran.err.contains("not UTF-8"), "{}", ran.err);
}

#[test]
fn ctrl_c_stops_the_answer_and_not_the_chat() {
    let scratch = Scratch::new("chat-ctrl-c");
    let mut command = imp_cli();
    command.args(ENDLESS).args(["--interactive", "--model", &endless(&scratch)]);
    let mut running = Running::open(&mut command);
    let mut out = BufReader::new(running.child().stdout.take().expect("piped"));
    let mut input = running.child().stdin.take().expect("piped");
    writeln!(input, "hello").unwrap();
    let mut text = vec![0; 64];
    out.read_exact(&mut text).expect("an answer begins");
    running.interrupt();
    writeln!(input, "/clear\n/set max_tokens=3\nhello").unwrap();
    drop(input);
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("the rest is UTF-8");
    let ran = running.end();
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("stopped; what was said stays"), "{}", ran.err);
    assert_eq!(ran.err.matches("[prompt:").count(), 2, "{}", ran.err);
}
