//! Where a model's layers run: which GPU, if any, and what to tell the user about the choice.

use config::{Config, Toggle};

use super::{EngineError, EngineOptions};
use crate::cuda::{Context, CudaError, Driver};
use crate::ops::cuda::chain;

/// A GPU that takes layers.
pub(super) struct Gpu {
    /// Opened.
    pub context: Context,
    /// How many, the first ones; `None` is all.
    pub layers: Option<usize>,
}

/// Opens the GPU that the options ask for. Without one that can be used the CPU computes, and the
/// notice says why, unless a device was named.
pub(super) fn choose(
    options: &EngineOptions,
) -> Result<(Option<Gpu>, Option<String>), EngineError> {
    let layers = match options.gpu_layers {
        -1 => None,
        n => Some(usize::try_from(n).map_err(|_| EngineError::Setting {
            what: format!("--gpu-layers {n}"),
            reason: "expected −1 (all), 0 (none) or a number of layers".to_owned(),
        })?),
    };
    if layers == Some(0) {
        let unused = |n| format!("--device {n} is not used: --gpu-layers 0 computes on the CPU");
        return Ok((None, options.device.map(unused)));
    }
    let ordinal = options.device.unwrap_or(0) as usize;
    match Driver::load().and_then(|driver| driver.open(ordinal)) {
        Ok(context) => Ok((Some(Gpu { context, layers }), None)),
        Err(error) if options.device.is_none() && is_absence(&error) => {
            Ok((None, Some(format!("{}: all layers run on the CPU", chain(&error)))))
        }
        Err(error) => Err(EngineError::Gpu(error)),
    }
}

/// Whether there is no GPU for us, rather than one that fails.
fn is_absence(error: &CudaError) -> bool {
    matches!(
        error,
        CudaError::NoDriver { .. }
            | CudaError::DriverTooOld { .. }
            | CudaError::NoDevice
            | CudaError::UnsupportedDevice { .. }
            | CudaError::NoPtx { .. }
    )
}

/// `always` means "or fail, with the reason".
pub(super) fn check_toggles(config: &Config, gpu: bool) -> Result<(), EngineError> {
    let unsupported = |key: &str, reason: &str| EngineError::Unsupported {
        what: format!("{key} = \"always\""),
        reason: reason.to_owned(),
    };
    if config.runtime.cuda_graphs == Toggle::Always && !gpu {
        return Err(unsupported(
            "runtime.cuda_graphs",
            "it concerns layers on a GPU, and all run on the CPU",
        ));
    }
    for (key, toggle) in [
        ("attention.mxfp4", config.attention.mxfp4),
        ("attention.fp8_fmha", config.attention.fp8_fmha),
        ("attention.fmha_sm120", config.attention.fmha_sm120),
    ] {
        if toggle == Toggle::Always {
            return Err(unsupported(key, "prompts attend in F16, and this build has no other way"));
        }
    }
    Ok(())
}
