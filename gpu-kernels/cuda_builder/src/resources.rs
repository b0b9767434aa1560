//! What an entry needs of a multiprocessor, read from what `ptxas -v` and `nvdisasm` print, and the
//! rules that it has to meet.

use std::collections::BTreeMap;

/// What one entry (or function that was not inlined) needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Symbol.
    pub entry: String,
    /// Registers a thread.
    pub registers: u32,
    /// Bytes a thread spills: stores and loads.
    pub spill_bytes: u32,
    /// Bytes of stack a thread.
    pub stack_bytes: u32,
    /// Bytes of static shared memory a CTA.
    pub shared_bytes: u32,
    /// How often each instruction stands in the code, by the first part of its name (`HMMA`); empty
    /// when nothing could disassemble it.
    pub instructions: BTreeMap<String, u32>,
}

/// An entry that may spill or have a stack frame.
#[derive(Clone, Copy, Debug)]
pub struct Allowed<'a> {
    /// Pattern of architectures: a name with `*` for anything.
    pub arch: &'a str,
    /// Pattern of entries.
    pub entry: &'a str,
    /// Why that is right.
    pub reason: &'a str,
}

/// An instruction that entries must hold, as proof of the path they take.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// Pattern of architectures: a name with `*` for anything.
    pub arch: &'a str,
    /// Pattern of entries.
    pub entry: &'a str,
    /// First part of the instruction's name in SASS: `HMMA`, `IMMA`, `QMMA`.
    pub mnemonic: &'a str,
}

/// What entries have to meet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules<'a> {
    /// Spills and stack frames that are known and right.
    pub allowed: &'a [Allowed<'a>],
    /// Instructions that must be there.
    pub expected: &'a [Expected<'a>],
}

impl Rules<'_> {
    /// A sentence for each entry of `arch` that breaks a rule, and for each rule that names no
    /// entry or excuses nothing.
    pub fn check(&self, arch: &str, entries: &[Resources]) -> Vec<String> {
        let mut broken = Vec::new();
        let allowed: Vec<_> = self.allowed.iter().filter(|a| matches(a.arch, arch)).collect();
        let frames = |r: &Resources| r.spill_bytes > 0 || r.stack_bytes > 0;
        for r in entries.iter().filter(|r| frames(r)) {
            if !allowed.iter().any(|a| matches(a.entry, &r.entry)) {
                broken.push(format!(
                    "{arch} {}: spills {} bytes, stack frame {} bytes, with {} registers",
                    r.entry, r.spill_bytes, r.stack_bytes, r.registers
                ));
            }
        }
        for a in allowed {
            if !entries.iter().any(|r| frames(r) && matches(a.entry, &r.entry)) {
                broken.push(format!("{arch} {}: allowed to spill, but does not", a.entry));
            }
        }
        for e in self.expected.iter().filter(|e| matches(e.arch, arch)) {
            let mut named = entries.iter().filter(|r| matches(e.entry, &r.entry)).peekable();
            if named.peek().is_none() {
                broken.push(format!(
                    "{arch} {}: expected to hold {}, but is no entry",
                    e.entry, e.mnemonic
                ));
            }
            // Without a disassembler nothing is known, which is not the entry's fault.
            for r in named.filter(|r| !r.instructions.is_empty()) {
                if !r.instructions.contains_key(e.mnemonic) {
                    broken.push(format!("{arch} {}: has no {}", r.entry, e.mnemonic));
                }
            }
        }
        broken
    }
}

/// Whether `name` is `pattern`, in which `*` stands for any text.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|i| rest.is_char_boundary(i) && matches(after, &rest[i..]))
        }),
    }
}

/// Reads what `ptxas -v` prints.
pub(crate) fn parse_ptxas(text: &str) -> Vec<Resources> {
    let mut all: Vec<Resources> = Vec::new();
    let mut properties = 0; // whose frame the next line gives
    let mut compiling = 0; // whose registers the next `Used` gives
    let slot = |all: &mut Vec<Resources>, name: &str| {
        all.iter().position(|r| r.entry == name).unwrap_or_else(|| {
            all.push(Resources { entry: name.into(), ..Resources::default() });
            all.len() - 1
        })
    };
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            compiling = slot(&mut all, rest.split('\'').next().unwrap_or_default());
        } else if let Some((_, name)) = line.split_once("Function properties for ") {
            properties = slot(&mut all, name.trim());
        } else if line.contains(" bytes stack frame") {
            if let Some(r) = all.get_mut(properties) {
                r.stack_bytes = before(line, " bytes stack frame");
                r.spill_bytes =
                    before(line, " bytes spill stores") + before(line, " bytes spill loads");
            }
        } else if line.contains(": Used ")
            && let Some(r) = all.get_mut(compiling)
        {
            r.registers = before(line, " registers");
            r.shared_bytes = before(line, " bytes smem");
        }
    }
    all
}

/// The number that stands before `unit`; 0 if it does not.
fn before(line: &str, unit: &str) -> u32 {
    let number = line.split_once(unit).map(|(head, _)| head.rsplit([' ', ',']).next());
    number.flatten().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Counts instructions by section of what `nvdisasm -c` prints: entry, instruction, how often.
pub(crate) fn parse_sass(text: &str) -> BTreeMap<String, BTreeMap<String, u32>> {
    let mut all: BTreeMap<String, BTreeMap<String, u32>> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix(".text.").and_then(|l| l.strip_suffix(':')) {
            current = Some(all.entry(name.to_owned()).or_default());
        } else if let (Some(counts), Some(name)) = (&mut current, instruction(line)) {
            match counts.get_mut(name) {
                Some(count) => *count += 1,
                None => _ = counts.insert(name.to_owned(), 1),
            }
        }
    }
    all
}

/// The first part of the instruction's name on a line like `/*0080*/ @!P0 HMMA.16816.F32 R4, …`.
fn instruction(line: &str) -> Option<&str> {
    let (_, code) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
    let mut words = code.split_whitespace().filter(|w| !w.starts_with(['@', '{']));
    words.next()?.split(['.', ';']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTXAS: &str = "ptxas info    : 8 bytes gmem
ptxas info    : Compiling entry function 'gemm_f16' for 'sm_90'
ptxas info    : Function properties for gemm_f16
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers
ptxas info    : Compile time = 13.527 ms
ptxas info    : Compiling entry function 'norm_f32' for 'sm_90'
ptxas info    : Function properties for norm_f32
    64 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 10 registers, used 1 barriers, 64 bytes cumulative stack size, 1024 bytes smem
ptxas info    : Function properties for helper
    16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
";
    const SASS: &str = "\t.section\t.text.gemm_f16,\"ax\",@progbits
gemm_f16:
.text.gemm_f16:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/               @!P0 HMMA.16816.F32 R4, R8, R12, R4 ;
.L_x_28:
        /*0020*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
        /*0030*/                   EXIT ;
.text.norm_f32:
        /*0000*/               @P0 EXIT ;
";

    fn both() -> Vec<Resources> {
        let (mut all, mut counts) = (parse_ptxas(PTXAS), parse_sass(SASS));
        for r in &mut all {
            r.instructions = counts.remove(&r.entry).unwrap_or_default();
        }
        all
    }

    #[test]
    fn ptxas_gives_registers_frames_and_shared_memory() {
        let all = parse_ptxas(PTXAS);
        let of = |i: usize| {
            let r = &all[i];
            (r.entry.as_str(), r.registers, r.spill_bytes, r.stack_bytes, r.shared_bytes)
        };
        assert_eq!(of(0), ("gemm_f16", 168, 0, 0, 0));
        assert_eq!(of(1), ("norm_f32", 10, 20, 64, 1024));
        assert_eq!(of(2), ("helper", 0, 0, 16, 0));
        assert_eq!(all.len(), 3);
        assert!(parse_ptxas("ptxas info : Used 3 registers\n  8 bytes stack frame").is_empty());
    }
    #[test]
    fn instructions_are_counted_by_entry() {
        let all = parse_sass(SASS);
        assert_eq!(all["gemm_f16"]["HMMA"], 2);
        assert_eq!(all["gemm_f16"].values().sum::<u32>(), 4);
        assert_eq!(all["norm_f32"]["EXIT"], 1);
    }
    #[test]
    fn rules_name_what_breaks_them() {
        let hmma = Expected { arch: "*", entry: "gemm_*", mnemonic: "HMMA" };
        let norm = Allowed { arch: "sm_9*", entry: "norm_*", reason: "shown by the test" };
        let helper = Allowed { arch: "sm_90", entry: "helper", reason: "shown by the test" };
        let rules = Rules { allowed: &[norm, helper], expected: &[hmma] };
        assert_eq!(rules.check("sm_90", &both()), Vec::<String>::new());
        let broken = Rules { expected: &[hmma], ..Rules::default() }.check("sm_90", &both());
        assert_eq!(broken.len(), 2, "{broken:?}");
        assert!(broken[0].contains("norm_f32: spills 20 bytes, stack frame 64 bytes"));

        let qmma = Expected { mnemonic: "QMMA", ..hmma };
        let none = Expected { entry: "gemv_*", ..hmma };
        let idle = Allowed { entry: "gemm_*", ..norm };
        let rules = Rules { allowed: &[norm, helper, idle], expected: &[qmma, none] };
        let broken = rules.check("sm_90", &both());
        assert_eq!(broken.len(), 3, "{broken:?}");
        assert!(broken[0].contains("allowed to spill, but does not"));
        assert!(broken[1].contains("gemm_f16: has no QMMA"));
        assert!(broken[2].contains("is no entry"));
        // Rules of other architectures are not asked.
        assert_eq!(
            Rules { expected: &[Expected { arch: "sm_8*", ..qmma }], ..rules }
                .check("sm_90", &both())
                .len(),
            1
        );
    }
    #[test]
    fn patterns_have_stars_for_any_text() {
        for (pattern, name, is) in [
            ("gemm_*", "gemm_f16", true),
            ("gemm_*", "gemv_f16", false),
            ("*_f16", "gemm_f16", true),
            ("g*_*_x", "gemm_f16_x", true),
            ("g*_*_y", "gemm_f16_x", false),
            ("*", "", true),
            ("gemm", "gemm_f16", false),
        ] {
            assert_eq!(matches(pattern, name), is, "{pattern} {name}");
        }
    }
}
