//! Cuts the PTX of all kernels into one file a module.
//!
//! rustc writes one file: a header, then variables, functions and entries. A module gets the header,
//! its entries, and what they refer to. Comments go, so that files stay small and the same.

use std::collections::{BTreeMap, HashMap};

use crate::Error;

/// What the caller knows of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelEntry<'a> {
    /// Symbol in the PTX.
    pub name: &'a str,
    /// Module it belongs to.
    pub module: &'a str,
    /// Threads of a CTA, at most: `.maxntid`.
    pub max_threads: u32,
    /// CTAs that a multiprocessor should hold: `.minnctapersm`.
    pub min_ctas: u32,
}

/// The PTX of each module, with the launch bounds of its entries.
///
/// # Errors
/// When the PTX is not understood, or its entries are not exactly `entries`.
pub fn split(ptx: &str, entries: &[KernelEntry<'_>]) -> Result<BTreeMap<String, String>, Error> {
    let text = strip(ptx);
    let file = File::parse(&text)?;
    file.check(entries)?;
    let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
    for (i, item) in file.items.iter().enumerate() {
        by_name.entry(item.name).or_default().push(i);
    }
    let listed: HashMap<&str, &KernelEntry<'_>> = entries.iter().map(|e| (e.name, e)).collect();
    let mut modules = BTreeMap::new();
    for entry in entries {
        modules.entry(entry.module).or_insert_with(Vec::new).push(entry.name);
    }
    let assemble = |(module, roots): (&str, Vec<&str>)| {
        let mut wanted = vec![false; file.items.len()];
        let mut open = roots;
        while let Some(name) = open.pop() {
            for &i in by_name.get(name).into_iter().flatten() {
                if !std::mem::replace(&mut wanted[i], true) {
                    open.extend(names(file.items[i].text));
                }
            }
        }
        let mut out = file.header.join("\n") + "\n";
        for (item, _) in file.items.iter().zip(wanted).filter(|(_, wanted)| *wanted) {
            match listed.get(item.name).filter(|_| item.is_entry) {
                Some(entry) => out.push_str(&bounded(item.text, entry)),
                None => out.push_str(item.text),
            }
            out.push('\n');
        }
        (module.to_owned(), out)
    };
    Ok(modules.into_iter().map(assemble).collect())
}

/// An entry's text with its launch bounds, from which ptxas takes how many registers it may use.
fn bounded(text: &str, entry: &KernelEntry<'_>) -> String {
    let (head, body) = text.split_at(text.find('{').unwrap_or(text.len()));
    let (head, threads, ctas) = (head.trim_end(), entry.max_threads, entry.min_ctas);
    format!("{head}\n.maxntid {threads}, 1, 1\n.minnctapersm {ctas}\n{body}")
}

/// A variable, function or entry.
#[derive(Debug)]
struct Item<'a> {
    name: &'a str,
    text: &'a str,
    is_entry: bool,
}

#[derive(Debug)]
struct File<'a> {
    header: Vec<&'a str>,
    items: Vec<Item<'a>>,
}

impl<'a> File<'a> {
    fn parse(text: &'a str) -> Result<Self, Error> {
        let mut file = File { header: Vec::new(), items: Vec::new() };
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let failed = |what: &str| {
                let line = text[..text.len() - rest.len()].lines().count() + 1;
                Error::Ptx { line, what: what.into() }
            };
            let line = rest.lines().next().unwrap_or_default();
            let word = line.split_whitespace().next().unwrap_or_default();
            let taken = match word {
                ".version" | ".target" | ".address_size" => {
                    file.header.push(line);
                    line.len()
                }
                // Of debug information only.
                ".file" => line.len(),
                _ if word.starts_with('.') => {
                    let len = item_len(rest).ok_or_else(|| failed("has no end"))?;
                    let item = Item::parse(&rest[..len]).ok_or_else(|| failed("has no name"))?;
                    file.items.push(item);
                    len
                }
                _ => return Err(failed("is no directive")),
            };
            rest = rest[taken..].trim_start();
        }
        Ok(file)
    }

    fn check(&self, entries: &[KernelEntry<'_>]) -> Result<(), Error> {
        let compiled: Vec<&str> =
            self.items.iter().filter(|i| i.is_entry).map(|i| i.name).collect();
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
        let lacks = |have: &[&str], name: &str| !have.contains(&name);
        let listed: Vec<&str> = entries.iter().map(|e| e.name).collect();
        let missing: Vec<&str> =
            listed.iter().copied().filter(|name| lacks(&compiled, name)).collect();
        let unlisted: Vec<&str> =
            compiled.iter().copied().filter(|name| lacks(&listed, name)).collect();
        if missing.is_empty() && unlisted.is_empty() {
            Ok(())
        } else {
            Err(Error::Entries { missing: owned(missing), unlisted: owned(unlisted) })
        }
    }
}

impl<'a> Item<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let head = &text[..text.find('{').unwrap_or(text.len())];
        let (is_entry, after) = match (head.find(".entry"), head.find(".func")) {
            (Some(at), _) => (true, &head[at..]),
            // What a function gives back stands in parentheses before its name.
            (_, Some(at)) => match head[at + ".func".len()..].trim_start() {
                after if after.starts_with('(') => (false, &after[after.find(')')?..]),
                after => (false, after),
            },
            _ => (false, head),
        };
        names(after).next().map(|name| Self { name, text, is_entry })
    }
}

/// Bytes of the item at the start of `text`: up to the `;` of a variable or declaration, or the `}`
/// of a body.
fn item_len(text: &str) -> Option<usize> {
    let (mut depth, mut quoted) = (0u32, false);
    let mut is_function = None;
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'(' => {
                depth += 1;
                let head = &text[..i];
                if byte == b'{' && is_function.is_none() {
                    is_function = Some(head.contains(".entry") || head.contains(".func"));
                }
            }
            b'}' | b')' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 && byte == b'}' && is_function == Some(true) {
                    return Some(i + 1);
                }
            }
            b';' if depth == 0 => return Some(i + 1),
            _ => {}
        }
    }
    None
}

/// The words of `text` that can be symbols: no directives, registers or numbers.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '.' | '%');
    text.split(move |c| !inside(c))
        .filter(|w| w.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '$')))
}

/// Without comments and empty lines, and with one space for many.
fn strip(ptx: &str) -> String {
    let mut out = String::with_capacity(ptx.len());
    for line in ptx.lines() {
        let code = &line[..comment_start(line)];
        let mut words = code.split_whitespace();
        let Some(first) = words.next() else { continue };
        if code.starts_with(char::is_whitespace) {
            out.push('\t');
        }
        out.push_str(first);
        for word in words {
            out.push(' ');
            out.push_str(word);
        }
        out.push('\n');
    }
    out
}

/// Where a `//` begins that no string holds; the line's length if there is none.
fn comment_start(line: &str) -> usize {
    let mut quoted = false;
    for (i, byte) in line.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'/' if !quoted && line[i + 1..].starts_with('/') => return i,
            _ => {}
        }
    }
    line.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX: &str = r#"//
// Generated by LLVM NVPTX Back-End
//

.version 8.6
.target sm_90
.address_size 64

	// .globl	scale_f32
.extern .func  (.param .b32 func_retval0) twice
(
	.param .b32 twice_param_0
)
;
.global .align 4 .b8 table_a[8] = {1, 2, 3, 4, 5, 6, 7, 8};
.global .align 4 .b8 table_b[4] = {1, 2, 3, 4};
.const .align 8 .u64 pointer[1] = {generic(table_b)};
.extern .shared .align 16 .b8 unused[];
.func (.param .b32 func_retval0) twice(
	.param .b32 twice_param_0
)                                       // -- Begin function
{
	.reg .b64 	%rd<2>;
	mov.b64 	%rd1, pointer;
	ret;
}
.visible .entry scale_f32(
	.param .align 8 .b8 scale_f32_param_0[32]
)
{
	.reg .b32 	%r<4>;
	.pragma "nounroll // ;}";
$L__BB0_1:                              // =>This Inner Loop Header
	// begin inline asm
	{ .shared .align 16 .b8 static_shared[64]; mov.u32 %r1, static_shared; }
	// end inline asm
	call.uni (retval0), twice, (param0);
	ret;

}
	// .globl	sum_f32
.visible .entry sum_f32()
{
	mov.u64 	%rd1, table_a;
	ret;
}
"#;

    fn entry<'a>(name: &'a str, module: &'a str) -> KernelEntry<'a> {
        KernelEntry { name, module, max_threads: 256, min_ctas: 2 }
    }

    #[test]
    fn a_module_holds_what_its_entries_refer_to() {
        let modules = split(PTX, &[entry("sum_f32", "sum"), entry("scale_f32", "scale")]).unwrap();
        let (scale, sum) = (&modules["scale"], &modules["sum"]);
        for name in ["pointer[1]", "table_b[4]", ".extern .func", "\n.func (", "scale_f32("] {
            assert!(scale.contains(name), "{name}\n{scale}");
        }
        for name in ["table_a", "sum_f32", "unused"] {
            assert!(!scale.contains(name), "{name}\n{scale}");
        }
        assert_eq!(
            sum,
            ".version 8.6\n.target sm_90\n.address_size 64\n\
             .global .align 4 .b8 table_a[8] = {1, 2, 3, 4, 5, 6, 7, 8};\n\
             .visible .entry sum_f32()\n.maxntid 256, 1, 1\n.minnctapersm 2\n{\n\
             \tmov.u64 %rd1, table_a;\n\tret;\n}\n"
        );
    }
    #[test]
    fn comments_go_and_strings_and_scopes_stay() {
        let modules = split(PTX, &[entry("sum_f32", "all"), entry("scale_f32", "all")]).unwrap();
        let all = &modules["all"];
        assert!(!all.contains("inline asm") && !all.contains("globl") && !all.contains("=>"));
        assert!(all.contains("\t.pragma \"nounroll // ;}\";\n$L__BB0_1:\n"), "{all}");
        assert!(all.contains("\t{ .shared .align 16 .b8 static_shared[64]; mov.u32 %r1,"));
        assert_eq!(all.matches(".maxntid 256, 1, 1\n.minnctapersm 2\n{").count(), 2);
        assert_eq!(
            split(PTX, &[entry("sum_f32", "all"), entry("scale_f32", "all")]).unwrap(),
            modules
        );
    }
    #[test]
    fn the_list_and_the_ptx_have_the_same_entries() {
        let e = split(PTX, &[entry("sum_f32", "sum"), entry("gone_f32", "sum")]).unwrap_err();
        let Error::Entries { missing, unlisted } = e else { panic!("{e}") };
        assert_eq!((missing, unlisted), (vec!["gone_f32".into()], vec!["scale_f32".to_owned()]));
    }
    #[test]
    fn broken_ptx_is_an_error_with_its_line() {
        for (text, at, says) in [
            (".version 8.6\n.target sm_90\nadd.s32 %r1;\n", 3, "directive"),
            (".version 8.6\n.visible .entry a()\n{\n ret;\n", 2, "end"),
            (".version 8.6\n.global .align 4 .b8 [4];\n", 2, "name"),
        ] {
            let e = split(text, &[]).unwrap_err();
            let Error::Ptx { line, what } = e else { panic!("{e}") };
            assert_eq!(line, at);
            assert!(what.contains(says), "{what}");
        }
    }
}
