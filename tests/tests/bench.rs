//! `xtask bench serve` against the real server, with small numbers.

use std::process::Command;

use serde_json::Value;
use tests::{Running, Scratch, data, xtask};

#[test]
fn the_server_is_measured() {
    let scratch = Scratch::new("bench-serve");
    let out = scratch.dir().join("out");
    let mut command: Command = xtask();
    command.args(["bench", "serve", "--model"]).arg(data("tiny/llama/llama-f32.gguf"));
    command
        .arg("--out")
        .arg(&out)
        .args(["--test", "prefix", "--test", "cpu", "--test", "schedule"]);
    command.args(["--prefix", "128", "--reps", "2", "--cpu-streams", "1,3", "--cpu-tokens", "100"]);
    command.args(["--requests", "4", "--", "--gpu-layers", "0", "--threads", "1"]);
    let ran = Running::start(&mut command, b"").end();
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let text = std::fs::read_to_string(out.join("serve.json")).expect("it is written");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} in {text}"));
    let prefix = &report["prefix"]["prompts"];
    assert_eq!(prefix[0]["cached_tokens"], 0);
    assert!(number(&prefix[1]["cached_tokens"]) >= 112.0 && number(&prefix[1]["over_new"]) > 0.0);
    for (index, streams) in [1, 3].into_iter().enumerate() {
        let cpu = &report["cpu"][index];
        assert_eq!(cpu["streams"], streams);
        assert!(number(&cpu["tokens"]) > 0.0 && number(&cpu["engine_us_per_token"]) >= 0.0);
    }
    assert_eq!(report["schedule"]["requests"], 4.0);
    assert!(number(&report["schedule"]["mean_s"]) > 0.0);
    assert!(number(&report["memory"]["after"]["own_bytes"]) > 0.0);
    assert!(ran.out.contains("bench serve --model"), "{}", ran.out);
}
