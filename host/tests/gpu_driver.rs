//! The driver module on a real GPU. Without one each test says that it was skipped, and why.
//!
//! Nothing here reads a file beside the program, so it can be run on another machine.

use std::path::{Path, PathBuf};

use cuda_std::Launch;
use gpu_kernels::kernels::gated::{self, GATED_SILU, GatedParams};
use gpu_kernels::kernels::operand::OperandOut;
use host::cuda::{Context, CubinCache, CudaError, DeviceBuffer, Driver, GraphExec, Stream};

/// The first GPU, or None with a line that says which test is skipped.
fn gpu(test: &str) -> Option<Context> {
    gpu_with_cache(test, CubinCache::of_user())
}

fn gpu_with_cache(test: &str, cache: CubinCache) -> Option<Context> {
    match Driver::load() {
        Ok(driver) => {
            let device = driver.device(0).expect("a driver that loads has a device").clone();
            let opened = Context::open_with_cache(device, driver.version(), cache);
            Some(opened.unwrap_or_else(|e| panic!("{test}: {e}")))
        }
        Err(e @ (CudaError::NoDriver { .. } | CudaError::NoDevice)) => {
            println!("{test}: skipped, {e}");
            None
        }
        Err(e) => panic!("{test}: {e}"),
    }
}

fn upload(stream: &Stream, values: &[f32]) -> DeviceBuffer {
    let buffer = stream.context().alloc(size_of_val(values)).unwrap();
    stream.write(&buffer, 0, bytemuck::cast_slice(values)).unwrap();
    buffer
}

fn download(stream: &Stream, buffer: &DeviceBuffer) -> Vec<f32> {
    let mut values = vec![0f32; buffer.len() / 4];
    stream.read(buffer, 0, bytemuck::cast_slice_mut(&mut values)).unwrap();
    values
}

/// Numbers in -4..4 that differ.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mix = |i: u32| (i.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503)) >> 8;
    (0..n as u32).map(|i| mix(i) as f32 / (1 << 24) as f32 * 8.0 - 4.0).collect()
}

fn silu_times(gate: f32, up: f32) -> f64 {
    let gate = f64::from(gate);
    gate / (1.0 + (-gate).exp()) * f64::from(up)
}

/// exp and division on the device are good to a few units in the last place.
fn assert_close(found: &[f32], expected: impl IntoIterator<Item = f64>) {
    for (i, (&found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs();
        assert!(error <= 1e-5 * expected.abs() + 1e-6, "{i}: {found}, expected {expected}");
    }
}

fn silu_params(gate: &DeviceBuffer, up: &DeviceBuffer, out: &DeviceBuffer, n: u32) -> GatedParams {
    let out = OperandOut { float: out.view_mut(0), ..OperandOut::NONE };
    GatedParams { gate: gate.view(0), up: up.view(0), out, n, stride: n }
}

fn launch_silu(
    stream: &Stream,
    gate: &DeviceBuffer,
    up: &DeviceBuffer,
    out: &DeviceBuffer,
) -> Result<(), CudaError> {
    let n = (out.len() / 4) as u32;
    let (entry, launch) = gated::launch(false, 1, n, false);
    stream.launch(&entry, launch, &silu_params(gate, up, out, n))
}

#[test]
fn devices_are_described() {
    let Some(context) = gpu("devices_are_described") else { return };
    let device = context.device();
    println!("{device:#?}, PTX {}, {:?}", context.arch(), context.memory().unwrap());
    assert!(device.compute.major >= 8 && device.multiprocessors > 0 && !device.name.is_empty());
    assert!(device.shared_bytes_per_cta >= 99 * 1024);
    let memory = context.memory().unwrap();
    assert!(memory.free_bytes > 0 && memory.free_bytes <= memory.total_bytes);
}

#[test]
fn a_device_number_too_high_is_refused() {
    if gpu("a_device_number_too_high_is_refused").is_none() {
        return;
    }
    let driver = Driver::load().unwrap();
    let count = driver.devices().len();
    let error = driver.open(count).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("there is no GPU {count}: this machine has {count}, numbered from 0")
    );
}

#[test]
fn bytes_come_back() {
    let Some(context) = gpu("bytes_come_back") else { return };
    let stream = context.stream().unwrap();
    for bytes in [0usize, 1, 31, 4096, 1_000_003] {
        let data: Vec<u8> = (0..bytes).map(|i| (i * 7 + i / 251) as u8).collect();
        let buffer = context.alloc(bytes).unwrap();
        stream.write(&buffer, 0, &data).unwrap();
        let mut back = vec![0; bytes];
        stream.read(&buffer, 0, &mut back).unwrap();
        assert!(back == data, "{bytes}");
    }
    let buffer = context.alloc(100).unwrap();
    stream.write(&buffer, 0, &[1; 100]).unwrap();
    stream.write(&buffer, 40, &[2; 3]).unwrap();
    let mut back = [0; 5];
    stream.read(&buffer, 39, &mut back).unwrap();
    assert_eq!(back, [1, 2, 2, 2, 1]);
    for (start, len) in [(0, 101), (100, 1), (101, 0)] {
        let error = stream.write(&buffer, start, &vec![0; len]).unwrap_err();
        assert!(matches!(error, CudaError::OutOfRange { .. }), "{error}");
    }
}

#[test]
fn asynchronous_copies_arrive() {
    let Some(context) = gpu("asynchronous_copies_arrive") else { return };
    let bytes = 8 << 20;
    let (one, other) = (context.stream().unwrap(), context.stream().unwrap());
    let (a, b) = (context.alloc(bytes).unwrap(), context.alloc(bytes).unwrap());
    let mut pinned = context.alloc_pinned(bytes).unwrap();
    assert!(pinned.bytes().unwrap().iter().all(|&byte| byte == 0));
    for round in 0..4u8 {
        for (i, byte) in pinned.bytes_mut().unwrap().iter_mut().enumerate() {
            *byte = (i as u8).wrapping_mul(3) ^ round;
        }
        one.upload(&mut pinned, 0..bytes, &a, 0).unwrap();
        one.copy(&a, 0, &b, 0, bytes).unwrap();
        one.fill(&b, 0..16, 0xee).unwrap();
        // Back through another stream, which has to wait for this one.
        let event = context.event().unwrap();
        one.record(&event).unwrap();
        other.wait_for(&event).unwrap();
        other.download(&b, 0, &mut pinned, 0..bytes).unwrap();
        let back = pinned.bytes().unwrap();
        assert_eq!(back[..16], [0xee; 16]);
        let same = |i: usize| back[i] == (i as u8).wrapping_mul(3) ^ round;
        assert!((16..bytes).all(same), "round {round}");
    }
    // Dropped while the copy is under way.
    one.upload(&mut pinned, 0..bytes, &a, 0).unwrap();
    drop(pinned);
}

#[test]
fn a_kernel_computes_what_the_host_does() {
    let Some(context) = gpu("a_kernel_computes_what_the_host_does") else { return };
    let stream = context.stream().unwrap();
    for n in [0usize, 1, 31, 255, 256, 257, 100_000] {
        let (gate, up) = (numbers(n, 1), numbers(n, 2));
        let out = context.alloc(n * 4).unwrap();
        stream.fill(&out, 0..n * 4, 0xff).unwrap();
        launch_silu(&stream, &upload(&stream, &gate), &upload(&stream, &up), &out).unwrap();
        let expected = gate.iter().zip(&up).map(|(&g, &u)| silu_times(g, u));
        assert_close(&download(&stream, &out), expected);
    }
    let function = context.function(&GATED_SILU.info).unwrap();
    let ctas = function.ctas_per_multiprocessor(GATED_SILU.info.max_threads, 0).unwrap();
    println!("{function:?}, {ctas} CTAs a multiprocessor");
    assert!(function.registers() > 0 && ctas > 0);
}

#[test]
fn launches_beyond_the_limits_are_refused() {
    let Some(context) = gpu("launches_beyond_the_limits_are_refused") else { return };
    let stream = context.stream().unwrap();
    let out = context.alloc(4).unwrap();
    let params = silu_params(&out, &out, &out, 1);
    let shared = context.device().shared_bytes_per_cta;
    for launch in [
        Launch::linear(1, GATED_SILU.info.max_threads + 1),
        Launch::linear(1, 32).shared(shared + 1),
    ] {
        let error = stream.launch(&GATED_SILU, launch, &params).unwrap_err();
        assert!(matches!(error, CudaError::BadLaunch { .. }), "{error}");
    }
    // All that the device has, which takes more than the usual 48 KiB.
    stream.launch(&GATED_SILU, Launch::linear(1, 32).shared(shared), &params).unwrap();
    stream.synchronize().unwrap();
    let mut unknown = GATED_SILU;
    unknown.info.name = "no_such_kernel";
    let error = stream.launch(&unknown, Launch::linear(1, 32), &params).unwrap_err();
    assert!(matches!(error, CudaError::NoKernel { .. }), "{error}");
}

/// `length` kernels, each of which reads what the one before it wrote.
fn chain(stream: &Stream, buffers: [&DeviceBuffer; 3], length: usize) -> Result<(), CudaError> {
    let [a, b, gate] = buffers;
    for i in 0..length {
        let (from, to) = if i % 2 == 0 { (a, b) } else { (b, a) };
        launch_silu(stream, gate, from, to)?;
    }
    Ok(())
}

fn milliseconds(stream: &Stream, work: impl FnOnce()) -> f32 {
    let (start, end) = (stream.context().event().unwrap(), stream.context().event().unwrap());
    stream.record(&start).unwrap();
    work();
    stream.record(&end).unwrap();
    end.synchronize().unwrap();
    end.milliseconds_since(&start).unwrap()
}

/// A chain gives the same bits one kernel after the other, overlapping, and from a graph.
#[test]
fn chains_keep_their_order() {
    let Some(context) = gpu("chains_keep_their_order") else { return };
    const LENGTH: usize = 400;
    // Enough CTAs for several waves, so that a kernel that did not wait would read old numbers.
    let n = 1 << 20;
    // Each kernel multiplies by a number near 1, and never by 1: 400 times neither vanish nor explode,
    // and one that is left out shows.
    let gates: Vec<f32> = numbers(n, 3).iter().map(|x| 1.2785 + x / 400.0).collect();
    let start = numbers(n, 4);
    let mut stream = context.stream().unwrap();
    let (a, b) = (upload(&stream, &start), context.alloc(n * 4).unwrap());
    let gates = upload(&stream, &gates);
    let run = |stream: &Stream, how: &str, work: &dyn Fn()| {
        stream.write(&a, 0, bytemuck::cast_slice(&start)).unwrap();
        let time = milliseconds(stream, work);
        println!("{how}: {:.2} us a kernel", time * 1e3 / LENGTH as f32);
        download(stream, &a)
    };

    stream.set_overlap(false);
    let buffers = [&a, &b, &gates];
    chain(&stream, buffers, 2).unwrap();
    let apart = run(&stream, "one after the other", &|| chain(&stream, buffers, LENGTH).unwrap());
    assert!(apart.iter().all(|x| x.is_finite()) && apart.iter().any(|&x| x > 1.0));
    stream.set_overlap(true);
    println!("overlap: {}", stream.overlap());
    let overlapping = run(&stream, "overlapping", &|| chain(&stream, buffers, LENGTH).unwrap());
    assert!(overlapping == apart);

    let graph = stream.capture(|| chain(&stream, buffers, LENGTH)).unwrap();
    assert_eq!(graph.node_count().unwrap(), LENGTH);
    let exec: GraphExec = graph.instantiate().unwrap();
    drop(graph);
    exec.upload(&stream).unwrap();
    for round in 0..3 {
        let replayed =
            run(&stream, &format!("graph, round {round}"), &|| exec.launch(&stream).unwrap());
        assert!(replayed == apart, "round {round}");
    }
}

#[test]
fn a_recording_that_fails_leaves_the_stream_as_it_was() {
    let Some(context) = gpu("a_recording_that_fails_leaves_the_stream_as_it_was") else { return };
    let stream = context.stream().unwrap();
    let n = 1000;
    let gate = numbers(n, 5);
    let (a, out) = (upload(&stream, &gate), context.alloc(n * 4).unwrap());
    let mut pinned = context.alloc_pinned(4).unwrap();

    let error = stream.capture(|| {
        launch_silu(&stream, &a, &a, &out)?;
        stream.upload(&mut pinned, 0..4, &out, 0)
    });
    assert!(matches!(error.unwrap_err(), CudaError::NotCapturable { .. }));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = stream.capture(|| -> Result<(), CudaError> { panic!("on purpose") });
    }));
    assert!(panicked.is_err());

    // Neither ran, and the stream still works.
    stream.fill(&out, 0..n * 4, 0).unwrap();
    stream.upload(&mut pinned, 0..4, &out, 0).unwrap();
    assert!(download(&stream, &out).iter().all(|&x| x == 0.0));
    launch_silu(&stream, &a, &a, &out).unwrap();
    assert_close(&download(&stream, &out), gate.iter().map(|&g| silu_times(g, g)));
}

#[test]
fn a_context_works_on_every_thread() {
    let Some(context) = gpu("a_context_works_on_every_thread") else { return };
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let context = &context;
            scope.spawn(move || {
                let stream = context.stream().unwrap();
                let (gate, up) = (numbers(10_000, seed), numbers(10_000, seed + 9));
                let out = context.alloc(40_000).unwrap();
                launch_silu(&stream, &upload(&stream, &gate), &upload(&stream, &up), &out).unwrap();
                let expected = gate.iter().zip(&up).map(|(&g, &u)| silu_times(g, u));
                assert_close(&download(&stream, &out), expected);
            });
        }
    });
}

#[test]
fn memory_that_is_not_there_is_refused_with_numbers() {
    let Some(context) = gpu("memory_that_is_not_there_is_refused_with_numbers") else { return };
    match context.alloc(1 << 46) {
        Err(CudaError::OutOfMemory { bytes, free_bytes, total_bytes }) => {
            assert!(bytes == 1 << 46 && free_bytes > 0 && free_bytes <= total_bytes);
        }
        other => panic!("{other:?}"),
    }
    // The context is as good as before.
    let buffer = context.alloc(1 << 20).unwrap();
    context.stream().unwrap().write(&buffer, 0, &[1; 8]).unwrap();
}

/// A folder that goes away with the test.
struct Folder(PathBuf);
impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Loads some modules and computes something; tells how many modules were compiled and cached.
fn load_all(test: &str, folder: &Path) -> Option<(usize, usize)> {
    let context = gpu_with_cache(test, CubinCache::in_folder(folder))?;
    let start = std::time::Instant::now();
    context.load_modules(&["gated", "residual_norm", "sample"]).unwrap();
    let loaded = context.modules_loaded();
    println!("{test}: {loaded:?} in {:.2?}", start.elapsed());
    let stream = context.stream().unwrap();
    let out = context.alloc(4).unwrap();
    let two = upload(&stream, &[2.0]);
    launch_silu(&stream, &two, &two, &out).unwrap();
    assert_close(&download(&stream, &out), [silu_times(2.0, 2.0)]);
    Some((loaded.compiled, loaded.cached))
}

#[test]
fn modules_are_compiled_once() {
    const TEST: &str = "modules_are_compiled_once";
    let name = format!("imp-{TEST}-{}", std::process::id());
    let folder = Folder(std::env::temp_dir().join(name));
    let Some((count, 0)) = load_all(TEST, &folder.0) else { return };
    assert!(count > 0);
    assert_eq!(load_all(TEST, &folder.0), Some((0, count)), "the second time");

    let damaged = std::fs::read_dir(&folder.0).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    assert_eq!(load_all(TEST, &folder.0), Some((1, count - 1)), "with one damaged");
    assert_eq!(load_all(TEST, &folder.0), Some((0, count)), "and written anew");
}
