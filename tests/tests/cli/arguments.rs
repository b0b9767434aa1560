//! Every flag works or is refused by name; exit codes; what goes to which stream.

use tests::{Running, Scratch, imp_cli, run};

use crate::LLAMA;

/// A greedy answer of four tokens, with more arguments.
fn answer(more: &[&str]) -> tests::Ran {
    let base = ["--model", LLAMA, "--prompt", "hello", "--max-tokens", "4", "--temperature", "0"];
    run(&[&base, more].concat())
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn flags_of_the_manual_work() {
    let scratch = Scratch::new("flags");
    let config = scratch.file("imp.conf", "[runtime]\nexact = true\n");
    let config = format!("--config {config}");
    for line in [
        "--gpu-layers -1",
        "--gpu-layers 0",
        &config,
        "--set kv_cache.dtype=fp16",
        "--set kv_cache.dtype=fp16 --set runtime.cuda_graphs=never",
        "--max-seq-len 128",
        "--min-kv-tokens 64",
        "--stop zzz --stop yyy --stop xxx --stop www",
        "--top-p 0.5",
        "--top-k 10",
        "--min-p 0.1",
        "--typical-p 0.9",
        "--repeat-penalty 1.1",
        "--repeat-last-n 16",
        "--frequency-penalty 0.5",
        "--presence-penalty -0.5",
        "--seed 7",
        "--seed -1",
        "--dry-multiplier 0.8",
        "--dry-base 2",
        "--dry-allowed-length 3",
        "--dry-penalty-last-n 32",
        "--mirostat 0",
        "--mirostat 2",
        "--kv-fp16",
        "--prefill-chunk-size 0",
        "--prefill-chunk-size 5",
        "--threads 1",
        "--mem-report",
    ] {
        let ran = answer(&words(line));
        assert_eq!(ran.code, Some(0), "{line}: {}", ran.err);
        assert!(!ran.out.trim().is_empty(), "{line}: no answer");
        assert!(!ran.err.contains("no effect"), "{line}: {}", ran.err);
    }
}

#[test]
fn chat_templates_have_their_names() {
    let prompt_tokens = |name: &str| {
        let ran = answer(&["--chat-template", name, "--json"]);
        assert_eq!(ran.code, Some(0), "{name}: {}", ran.err);
        ran.json()["prompt_tokens"].clone()
    };
    let names =
        ["auto", "none", "chatml", "llama2", "llama3", "nemotron", "gemma", "deepseek_r1", "phi"];
    let prompts = names.map(prompt_tokens);
    for (i, prompt) in prompts.iter().enumerate() {
        for j in 0..i {
            // The model's own template is ChatML.
            let same = (names[j], names[i]) == ("auto", "chatml");
            assert_eq!(prompts[j] == *prompt, same, "{} and {}", names[j], names[i]);
        }
    }
    let ran = answer(&["--chat-template", "chatlm"]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("chatlm") && ran.err.contains("chatml"), "{}", ran.err);
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    // Past any machine's devices; without a driver the reason is another, and the exit code too.
    let ran = answer(&["--device", "99"]);
    let expected = if host::cuda::Driver::load().is_ok() { 1 } else { 3 };
    assert_eq!(ran.code, Some(expected), "{}", ran.err);
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    assert!(ran.err.contains("--gpu-layers 0"), "{}", ran.err);
    // Without a GPU a number of layers is told to be of no use, and the answer comes.
    let ran = answer(&["--gpu-layers", "3"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
}

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    for line in [
        "--mmproj mmproj.gguf",
        "--mmproj mmproj.gguf --image photo.jpg",
        "--kv-fp8",
        "--kv-int8",
        "--kv-int4",
        "--kv-nvfp4",
        "--kv-turboquant",
        "--prefill-fp8",
        "--decode-nvfp4",
        "--decode-nvfp4-only",
        "--ssm-fp16",
        "--mxfp4-prefill",
    ] {
        let ran = answer(&words(line));
        assert_eq!(ran.code, Some(6), "{line}: {}", ran.err);
        let flag = words(line)[0];
        assert!(ran.err.contains(flag) && ran.err.contains("not supported"), "{line}: {}", ran.err);
        assert_eq!(ran.out, "", "{line}");
    }
    for set in ["kv_cache.dtype=fp8", "kv_cache.dtype=turboquant", "attention.mxfp4=always"] {
        let ran = answer(&["--set", set]);
        assert_eq!(ran.code, Some(6), "{set}: {}", ran.err);
        assert!(ran.err.contains(set.split('=').next().unwrap()), "{set}: {}", ran.err);
    }
    let ran = run(&["--model", "hf:org/model", "--prompt", "hello"]);
    assert_eq!(ran.code, Some(6), "{}", ran.err);
}

#[test]
fn flags_that_change_nothing_say_so() {
    for (line, note) in [
        ("--gpu-layers 0 --no-cuda-graphs", "--no-cuda-graphs changes nothing"),
        ("--no-nvfp4", "--no-nvfp4 changes nothing"),
        ("--bench-pp 5", "--bench-pp has no effect with --prompt"),
        ("--bench-reps 5", "--bench-reps has no effect with --prompt"),
    ] {
        let ran = answer(&words(line));
        assert_eq!(ran.code, Some(0), "{line}: {}", ran.err);
        assert!(ran.err.contains(note), "{line}: {}", ran.err);
    }
}

#[test]
fn wrong_arguments_are_named() {
    for (line, part) in [
        ("", "nothing to do"),
        ("--prompt hello", "--prompt needs --model"),
        ("--model m.gguf", "nothing to do"),
        ("--model m.gguf --prompt a --interactive", "exclude each other"),
        ("--model m.gguf --promt hello", "did you mean --prompt?"),
        ("--model m.gguf --prompt=hello", "after a space"),
        ("--model m.gguf --prompt", "--prompt"),
        ("--model m.gguf hello", "--prompt"),
        ("--model m.gguf --prompt a --max-tokens -1", "--max-tokens"),
        ("--model m.gguf --prompt a --max-tokens many", "--max-tokens"),
        ("--model m.gguf --prompt a --temperature hot", "--temperature"),
        ("--model m.gguf --prompt a --temperature NaN", "--temperature is NaN"),
        ("--model m.gguf --prompt a --temperature -1", "--temperature is -1"),
        ("--model m.gguf --prompt a --temperature 1e300", "--temperature is inf"),
        ("--model m.gguf --prompt a --top-p 2", "--top-p is 2"),
        ("--model m.gguf --prompt a --mirostat 1", "--mirostat is 1"),
        ("--model m.gguf --prompt a --seed -2", "--seed"),
        ("--model m.gguf --prompt a --seed 18446744073709551616", "--seed"),
        ("--model m.gguf --prompt a --gpu-layers -2", "--gpu-layers"),
        ("--model m.gguf --prompt a --stop a --stop b --stop c --stop d --stop e", "limit is 4"),
        ("--model m.gguf --prompt a --logprobs 3", "add --json"),
        ("--model m.gguf --prompt-tokens 1,two", "\"two\" is not a token id"),
        ("--model m.gguf --bench --bench-reps 0", "--bench-reps"),
        ("--model m.gguf --bench --bench-pp 0 --max-tokens 0", "nothing to measure"),
    ] {
        let ran = run(&words(line));
        assert_eq!(ran.code, Some(1), "{line}: {}", ran.err);
        assert!(ran.err.contains(part), "{line}: {}", ran.err);
        assert_eq!((ran.out.as_str(), ran.err.lines().count()), ("", 1), "{line}: {}", ran.err);
    }
    let ran = run(&["--model", LLAMA, "--prompt", "a", "--stop", ""]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
}

#[test]
fn missing_files_are_not_found() {
    for (line, part) in [
        ("--model no/such.gguf --prompt a", "no/such.gguf"),
        ("--model nothing --prompt a", "paths.models"),
        ("--model no/such.gguf --inspect", "no/such.gguf"),
        (
            "--model tiny/llama/llama-f32.gguf --prompt-file no/such.txt",
            "--prompt-file no/such.txt",
        ),
        ("--model tiny/llama/llama-f32.gguf --perplexity no/such.txt", "--perplexity no/such.txt"),
        ("--model tiny/llama/llama-f32.gguf --kl-divergence no/such.txt", "no/such.txt"),
        ("--model tiny/llama/llama-f32.gguf --prompt a --config no/such.conf", "no/such.conf"),
    ] {
        let ran = run(&words(line));
        assert_eq!(ran.code, Some(4), "{line}: {}", ran.err);
        assert!(ran.err.contains(part), "{line}: {}", ran.err);
        assert_eq!(ran.out, "", "{line}");
    }
}

#[test]
fn what_does_not_fit_into_memory_says_how_much_and_what_helps() {
    let ran = answer(&["--max-seq-len", "2147483647"]);
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    assert!(ran.err.contains("--max-seq-len") && ran.err.contains("iB"), "{}", ran.err);
    let ran = answer(&["--min-kv-tokens", "2000000000"]);
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    assert!(ran.err.contains("--min-kv-tokens") && ran.err.contains("iB"), "{}", ran.err);
    // More than the kernels can count is not a question of memory.
    let ran = answer(&["--max-seq-len", "16000000000"]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("--max-seq-len 16000000000"), "{}", ran.err);
}

#[test]
fn help_version_and_devices() {
    for flag in ["--help", "-h"] {
        let help = run(&[flag]);
        assert_eq!((help.code, help.err.as_str()), (Some(0), ""));
        for flag in ["--model", "--mirostat", "--kl-divergence", "8  cancelled"] {
            let (a, b) = flag.split_once("  ").unwrap_or((flag, ""));
            assert!(help.out.contains(a) && help.out.contains(b), "{flag}: {}", help.out);
        }
    }
    let version = run(&["--version"]);
    assert_eq!((version.code, version.err.as_str()), (Some(0), ""));
    assert!(
        version.out.starts_with("imp-cli ") && version.out.contains("llama"),
        "{}",
        version.out
    );
    let devices = run(&["--list-devices"]);
    assert_eq!((devices.code, devices.err.as_str()), (Some(0), ""));
    assert!(devices.out.contains("CPU") && devices.out.contains("threads"), "{}", devices.out);
    let devices = run(&["--list-devices", "--json"]).json();
    assert!(devices["cpu"]["threads"].as_u64().is_some_and(|n| n > 0), "{devices}");
    assert!(devices["cuda"].is_array(), "{devices}");
}

#[test]
fn the_memory_report_adds_up() {
    let ran = run(&["--model", LLAMA, "--mem-report"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.contains("context: 512 tokens"), "{}", ran.out);
    for part in ["weights", "KV cache F16", "activations", "total", "free"] {
        assert!(ran.out.contains(part), "{}", ran.out);
    }
    // 3 layers, keys and values of 2 heads of 16: 384 bytes a token in F16, twice that in F32.
    assert!(ran.out.contains("192.0 KiB"), "{}", ran.out);
    let exact = run(&["--model", LLAMA, "--mem-report", "--set", "runtime.exact=true"]);
    assert!(exact.out.contains("384.0 KiB"), "{}", exact.out);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut command = imp_cli();
    command.args(["--model", LLAMA, "--prompt", "hello", "--temperature", "0"]);
    let mut running = Running::open(&mut command);
    drop(running.child().stdout.take());
    let ran = running.end();
    assert_eq!((ran.code, ran.err.contains("closed")), (Some(0), false), "{}", ran.err);
}

#[cfg(unix)]
#[test]
fn an_argument_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let mut command = imp_cli();
    command.args(["--model", LLAMA, "--prompt"]).arg(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    let ran = Running::start(&mut command, b"").end();
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("not UTF-8"), "{}", ran.err);
}
