//! `--interactive`: through a pipe, one input a line, and on a terminal.

use std::io::{BufReader, Read, Write};
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Duration;

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

#[test]
fn a_terminal_edits_lines_and_ctrl_c_stops_the_answer() {
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("skipped a_terminal_edits_lines: no `script` to make a terminal with");
        return;
    }
    let scratch = Scratch::new("terminal");
    let program = imp_cli();
    let (program, model) = (program.get_program().to_str().expect("UTF-8"), endless(&scratch));
    let line = [&[program, "--interactive", "--model", &model], &ENDLESS[..]].concat().join(" ");
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    command.current_dir(tests::data("")).env_remove("IMP_CONFIG").env("TERM", "xterm");
    command.env("HOME", scratch.dir()).env("XDG_STATE_HOME", scratch.dir());
    let mut running = Running::open(&mut command);
    let mut screen = running.child().stdout.take().expect("piped");
    let mut keys = running.child().stdin.take().expect("piped");
    let (sender, pieces) = channel();
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(1..) = screen.read(&mut piece).inspect(|n| {
            let _ = sender.send(piece[..*n].to_vec()); // a test that failed does not listen
        }) {}
    });
    let mut seen = vec![];
    // Reads until `done` is true of the end of what came since.
    let mut wait = |what: &str, done: &dyn Fn(&str) -> bool| {
        let from = seen.len();
        let tail = |seen: &[u8]| {
            let last = from.max(seen.len().saturating_sub(1000));
            String::from_utf8_lossy(&seen[last..]).into_owned()
        };
        while !done(&tail(&seen)) {
            match pieces.recv_timeout(Duration::from_secs(60)) {
                Ok(piece) => seen.extend(piece),
                Err(_) => panic!("no {what}: {:?}", tail(&seen)),
            }
        }
    };
    wait("prompt", &|text| text.contains("> "));
    keys.write_all(b"hellx\x7fo\r").unwrap();
    // Echo and prompt are far shorter than this.
    wait("answer", &|text| text.len() > 400);
    keys.write_all(b"\x03").unwrap();
    wait("word that it stopped", &|text| text.contains("stopped") && text.contains("> "));
    keys.write_all(b"\x03").unwrap(); // at the prompt it ends nothing
    wait("advice", &|text| text.contains("Ctrl-D") && text.contains("> "));
    keys.write_all(b"/exit\r").unwrap();
    let ran = running.end();
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let history = std::fs::read_to_string(scratch.dir().join("imp/history")).expect("a history");
    assert!(history.contains("hello") && history.contains("/exit"), "{history}");
}
