//! What a kernel is: its entry in the PTX, its parameters and its launch shape.

use crate::Thread;

/// Parameters of a kernel: one `#[repr(C)]` struct passed by value, made by [`params!`](crate::params).
pub trait Params: Copy + 'static {
    /// Changes when a field's name, type, order or place changes, so that a launch can be tied to the
    /// PTX it was compiled with.
    const LAYOUT: u64;
}

/// What is known of an entry without its parameters' type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryInfo {
    /// Symbol in the PTX: `<op>_<format or dtype>[_<variant>]`.
    pub name: &'static str,
    /// Stem of the file in `ptx-cache/<arch>/` that holds it.
    pub module: &'static str,
    /// Threads of a CTA, at most; becomes `.maxntid`.
    pub max_threads: u32,
    /// CTAs that should fit on a multiprocessor; becomes `.minnctapersm`.
    pub min_ctas: u32,
    /// [`Params::LAYOUT`].
    pub layout: u64,
}

/// A kernel that can be launched with parameters `P`.
#[derive(Debug)]
pub struct Entry<P: Params> {
    /// Name, module and launch bounds.
    pub info: EntryInfo,
    /// The body, for the emulator.
    pub body: fn(Thread, &P),
}

/// Shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// CTAs in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a CTA.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
}

impl Launch {
    /// `ctas` CTAs of `threads` threads, no dynamic shared memory.
    pub const fn linear(ctas: u32, threads: u32) -> Self {
        Self { grid: [ctas, 1, 1], threads, shared_bytes: 0 }
    }
    /// A grid of two dimensions.
    pub const fn plane(x: u32, y: u32, threads: u32) -> Self {
        Self { grid: [x, y, 1], threads, shared_bytes: 0 }
    }
    /// With `bytes` of dynamic shared memory.
    pub const fn shared(mut self, bytes: u32) -> Self {
        self.shared_bytes = bytes;
        self
    }
}

/// FNV-1a, for [`Params::LAYOUT`].
pub const fn layout_hash(text: &str, size: usize, align: usize) -> u64 {
    let bytes = text.as_bytes();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut i = 0;
    while i < bytes.len() {
        // Spaces depend on how the compiler prints tokens.
        if bytes[i] != b' ' && bytes[i] != b'\n' {
            hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
        }
        i += 1;
    }
    hash = (hash ^ size as u64).wrapping_mul(0x0100_0000_01b3);
    (hash ^ align as u64).wrapping_mul(0x0100_0000_01b3)
}

/// Defines the parameter struct of a kernel.
///
/// ```ignore
/// params! {
///     /// What they mean.
///     pub struct ScaleParams {
///         /// [n].
///         pub x: Global<f32>,
///         /// [n].
///         pub y: GlobalMut<f32>,
///         /// Elements.
///         pub n: u32,
///     }
/// }
/// ```
#[macro_export]
macro_rules! params {
    ($(#[$meta:meta])* $vis:vis struct $Name:ident {
        $($(#[$fmeta:meta])* $fvis:vis $field:ident : $Type:ty),* $(,)?
    }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        $vis struct $Name { $($(#[$fmeta])* $fvis $field: $Type,)* }
        impl $crate::Params for $Name {
            const LAYOUT: u64 = $crate::kernel::layout_hash(
                concat!($(stringify!($field), ":", stringify!($Type), ";",)*),
                size_of::<$Name>(),
                align_of::<$Name>(),
            );
        }
    };
}

/// Declares kernels: the PTX entry on the device, an [`Entry`] constant elsewhere, and `KERNELS`, the
/// list of them.
///
/// ```ignore
/// kernels! {
///     module "scale";
///     /// `y = 2 · x`.
///     pub SCALE_F32: scale_f32(ScaleParams), threads 256, ctas 1 => scale::<f32>;
/// }
/// ```
/// `threads` becomes `.maxntid` and `ctas` `.minnctapersm`; the body is a
/// `fn(Thread, &ScaleParams)`, marked `#[inline(always)]`.
#[macro_export]
macro_rules! kernels {
    (module $module:literal; $(
        $(#[$meta:meta])* $vis:vis $NAME:ident : $entry:ident ($P:ty),
        threads $threads:expr, ctas $ctas:expr => $body:expr;
    )*) => {
        $(
            #[cfg(not(target_arch = "nvptx64"))]
            $(#[$meta])*
            $vis const $NAME: $crate::Entry<$P> = $crate::Entry {
                info: $crate::EntryInfo {
                    name: stringify!($entry),
                    module: $module,
                    max_threads: $threads,
                    min_ctas: $ctas,
                    layout: <$P as $crate::Params>::LAYOUT,
                },
                body: $body,
            };
            // The builder inserts the bounds; here they are only checked.
            #[cfg(target_arch = "nvptx64")]
            const _: (u32, u32) = ($threads, $ctas);
            #[cfg(target_arch = "nvptx64")]
            #[unsafe(no_mangle)]
            unsafe extern "ptx-kernel" fn $entry(p: $P) {
                ($body)($crate::Thread::new(), &p)
            }
        )*
        /// Every kernel of this module.
        #[cfg(not(target_arch = "nvptx64"))]
        pub const KERNELS: &[$crate::EntryInfo] = &[$($NAME.info),*];
    };
}
