//! The same buffers and launches in the emulator, for tests of what chooses by them.

use cuda_std::emu::Memory;

use super::*;

/// Stands in for the device.
pub(crate) struct Emulated {
    layout: Layout,
    memory: Memory,
    logits: GlobalMut<f32>,
    input: GlobalMut<u8>,
    scratch: GlobalMut<u8>,
    state: GlobalMut<u8>,
}

impl Emulated {
    pub fn new(limits: &SampleLimits) -> Self {
        let layout = Layout::new(limits).expect("a vocabulary that the kernels support");
        let mut memory = Memory::new();
        Self {
            logits: memory.uninit(limits.rows * limits.vocab),
            input: memory.uninit(layout.input_bytes),
            scratch: memory.uninit(layout.scratch_bytes),
            state: memory.upload_mut(&vec![0u8; layout.state_bytes]),
            layout,
            memory,
        }
    }

    /// What [`Workspace::sample`] does.
    pub fn sample(&mut self, logits: &[f32], requests: &[SampleRequest]) -> Vec<Sampled> {
        let Self { layout, memory, .. } = self;
        assert_eq!(logits.len(), requests.len() * layout.limits.vocab);
        memory.write(self.logits, logits);
        for slot in fresh_slots(requests) {
            let range = layout.slot(slot);
            memory.write(self.state.at(range.start), &vec![0u8; range.len()]);
        }
        let bases = Bases {
            input: self.input.address(),
            scratch: self.scratch.address(),
            state: self.state.address(),
        };
        let mut changes = changes(requests);
        let mut staging = vec![0; layout.input_bytes];
        let packed = loop {
            let packed = layout.pack(requests, &mut changes, &mut staging);
            memory.write(self.input, &staging[..packed.bytes]);
            let params = layout.count_params(&packed, &bases);
            if params.n > 0 {
                memory.launch(&COUNT, count_launch(params.n), &params).unwrap();
            }
            if changes.peek().is_none() {
                break packed;
            }
        };
        let params = layout.params(&packed, &bases, self.logits.read());
        let shape = layout.launch(requests);
        memory.launch(&SCAN, shape, &params).unwrap();
        if is_drawn(requests) {
            memory.launch(&DRAW, shape, &params).unwrap();
        }
        let out = memory.read_written::<[u32; 4]>(params.out).into_iter();
        out.take(requests.len()).map(|row| result(row.expect("each row has a result"))).collect()
    }
}
