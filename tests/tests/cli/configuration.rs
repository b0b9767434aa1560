//! Where settings come from, and which of them wins.

use std::path::Path;

use tests::{Ran, Running, Scratch, data, imp_cli};

use crate::LLAMA;

/// A file that makes the context `tokens` long: the memory report shows who won.
fn conf(tokens: u32) -> String {
    format!("[runtime]\nmax_seq_len = {tokens}\n")
}

struct Places<'a> {
    cwd: &'a Path,
    home: &'a Path,
    variable: Option<&'a str>,
}

fn report(places: &Places<'_>, more: &[&str]) -> Ran {
    let model = data(LLAMA);
    let mut command = imp_cli();
    command.arg("--model").arg(model).arg("--mem-report").args(more);
    command.current_dir(places.cwd).env("HOME", places.home);
    if let Some(path) = places.variable {
        command.env("IMP_CONFIG", path);
    }
    Running::start(&mut command, b"").end()
}

fn context(ran: &Ran) -> &str {
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let line = ran.out.lines().find_map(|line| line.strip_prefix("context: ")).expect(&ran.out);
    line.split_whitespace().next().expect(line)
}

#[test]
fn the_first_file_of_the_search_order_wins() {
    let scratch = Scratch::new("search");
    let (cwd, home, empty) =
        (scratch.dir().join("cwd"), scratch.dir().join("home"), scratch.dir().join("empty"));
    for dir in [&cwd, &home.join(".config/imp"), &empty] {
        std::fs::create_dir_all(dir).unwrap();
    }
    std::fs::write(cwd.join("imp.conf"), conf(112)).unwrap();
    std::fs::write(home.join(".config/imp/imp.conf"), conf(128)).unwrap();
    let by_variable = scratch.file("variable.conf", conf(96));
    let by_flag = scratch.file("flag.conf", conf(80));

    let all = Places { cwd: &cwd, home: &home, variable: Some(&by_variable) };
    assert_eq!(context(&report(&all, &["--config", &by_flag])), "80");
    assert_eq!(context(&report(&all, &[])), "96");
    let files = Places { variable: None, ..all };
    assert_eq!(context(&report(&files, &[])), "112");
    let at_home = Places { cwd: &empty, home: &home, variable: None };
    assert_eq!(context(&report(&at_home, &[])), "128");
    let none = Places { cwd: &empty, home: &empty, variable: None };
    assert_eq!(context(&report(&none, &[])), "512", "the model's own");

    // --set over the file, the named flag over both
    let set = ["--set", "runtime.max_seq_len=64"];
    assert_eq!(context(&report(&all, &set)), "64");
    assert_eq!(context(&report(&all, &[&set[..], &["--max-seq-len", "48"]].concat())), "48");
}

#[test]
fn settings_that_are_wrong_name_the_place_and_the_nearest_key() {
    let scratch = Scratch::new("wrong-settings");
    let here = Places { cwd: scratch.dir(), home: scratch.dir(), variable: None };
    for (set, part) in [
        ("runtime.exac=true", "did you mean runtime.exact?"),
        ("runtine.exact=true", "runtime"),
        ("kv_cache.dtyp=fp16", "kv_cache.dtype"),
        ("kv_cache.dtype=fp17", "fp16"),
        ("runtime.exact=yes", "true"),
        ("runtime.max_seq_len=-5", "runtime.max_seq_len"),
        ("rope.factor=0.5", "rope.factor"),
        ("runtime.exact", "runtime.exact"),
        ("", "section.key=value"),
    ] {
        let ran = report(&here, &["--set", set]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{set}: {}", ran.err);
        assert!(ran.err.contains(part), "{set}: {}", ran.err);
        assert_eq!(ran.err.lines().count(), 1, "{set}: {}", ran.err);
    }
    for (text, part) in [
        (
            "[runtime]\nexact = true\n\n[kv_cache]\ndtyp = \"fp16\"\n",
            "imp.conf:5:1: unknown key kv_cache.dtyp; did you mean kv_cache.dtype?",
        ),
        ("[runtime]\nexact = 1\n", "imp.conf:2:"),
        ("[runtime\n", "imp.conf:1:"),
        ("[runtimes]\n", "imp.conf:1:"),
    ] {
        scratch.file("imp.conf", text);
        let ran = report(&here, &[]);
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{text}: {}", ran.err);
        assert!(ran.err.contains(part), "{text}: {}", ran.err);
    }
    scratch.file("imp.conf", b"[runtime]\nexact = \xff\n");
    assert_eq!(report(&here, &[]).code, Some(1));
}

#[test]
fn models_are_found_by_name() {
    let scratch = Scratch::new("names");
    let models = scratch.dir().join("models");
    std::fs::create_dir_all(&models).unwrap();
    std::fs::copy(data(LLAMA), models.join("small.gguf")).unwrap();
    let config = scratch.file("c.conf", format!("[paths]\nmodels = {:?}\n", models.display()));
    let ran = |name: &str| {
        let args = ["--model", name, "--config", &config, "--prompt", "a", "--max-tokens", "1"];
        tests::run(&args)
    };
    assert_eq!(ran("small").code, Some(0));
    assert_eq!(ran("small.gguf").code, Some(0));
    let missing = ran("large");
    assert_eq!(missing.code, Some(4));
    assert!(missing.err.contains("models/large.gguf"), "{}", missing.err);
}
