//! Every kernel, loaded once: a field for each entry point of `kernels/*.cu`, of the same name, or for each pair of
//! entry points that differ in the storage format, or for each set of those that are made for one head size each.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction};

use super::{failed, images};
use crate::backend::{BackendError, Element};

/// The same kernel for both storage formats.
#[derive(Debug)]
pub struct Stored {
    f32: CudaFunction,
    bf16: CudaFunction,
}

impl Stored {
    /// The one for views of this element.
    ///
    /// # Panics
    /// If the element is no storage format.
    pub fn of(&self, element: Element) -> &CudaFunction {
        match element {
            Element::F32 => &self.f32,
            Element::Bf16 => &self.bf16,
            other => panic!("no kernel stores {}", other.name()),
        }
    }
}

/// Head sizes for which there are kernels on tensor cores.
pub const HEAD_SIZES: [usize; 5] = [16, 32, 64, 96, 128];

/// The same kernel for every head size.
#[derive(Debug)]
pub struct BySize([CudaFunction; HEAD_SIZES.len()]);

impl BySize {
    /// The one for this head size.
    ///
    /// # Panics
    /// If there is none; a model with such heads has been refused before it came here.
    pub fn of(&self, head_dim: usize) -> &CudaFunction {
        let index = HEAD_SIZES.iter().position(|&size| size == head_dim);
        &self.0[index.unwrap_or_else(|| panic!("no kernel for heads of {head_dim}, only of {HEAD_SIZES:?}"))]
    }

    /// Loads all of them with `function`.
    fn load(
        function: impl Fn(&str) -> Result<CudaFunction, BackendError>,
        name: &str,
    ) -> Result<Self, BackendError> {
        let one = |size: usize| function(&format!("{name}_d{size}"));
        let [a, b, c, d, e] = HEAD_SIZES;
        Ok(Self([one(a)?, one(b)?, one(c)?, one(d)?, one(e)?]))
    }
}

macro_rules! kernels {
    ($($source:literal: [$($pair:ident),*] [$($name:ident),*] $(by head size [$($sized:ident),*])?;)+) => {
        /// The entry points; those in pairs end in `_f32` and `_bf16`, those by head size in `_d64` and the like.
        #[allow(missing_docs, reason = "documented in the headers of kernels/*.cu")]
        #[derive(Debug)]
        pub struct Kernels {
            $($(pub $pair: Stored,)*)+
            $($(pub $name: CudaFunction,)*)+
            $($($(pub $sized: BySize,)*)?)+
        }

        impl Kernels {
            /// Loads all modules onto a device.
            pub fn load(context: &Arc<CudaContext>) -> Result<Self, BackendError> {
                $(
                    let module = images::load(context, $source)?;
                    let function = |name: &str| {
                        module.load_function(name).map_err(failed(format!("loading {name}")))
                    };
                    $(let $pair = Stored {
                        f32: function(concat!(stringify!($pair), "_f32"))?,
                        bf16: function(concat!(stringify!($pair), "_bf16"))?,
                    };)*
                    $(let $name = function(stringify!($name))?;)*
                    $($(let $sized = BySize::load(function, stringify!($sized))?;)*)?
                )+
                Ok(Self { $($($pair,)*)+ $($($name,)*)+ $($($($sized,)*)?)+ })
            }
        }
    };
}

kernels! {
    "adamw.cu": [] [adamw_f32, adamw_remainder, adamw_bf16, adamw_8bit];
    "attention.cu": [] [attention_forward_f32, attention_backward_query_f32, attention_backward_delta_f32,
        attention_backward_key_f32];
    "attention_bf16.cu": [] [] by head size [attention_forward_bf16];
    "attention_backward_bf16.cu": [] [] by head size [attention_backward_delta_bf16, attention_backward_key_bf16,
        attention_backward_query_bf16];
    "embedding.cu": [embedding_forward, embedding_mixed_forward, embedding_backward, embedding_mixed_backward] [];
    "gather.cu": [gather_rows, scatter_rows, copy_rows] [];
    "gradient_norm.cu": [] [gradient_norm_partial_f32, gradient_norm_finish];
    "head.cu": [target_logits, head_rows, head_rows_two] [head_rows_f32_bf16, head_rows_two_f32_bf16];
    "head_statistics.cu": [head_statistics] [];
    "objective.cu": [] [objective_pointwise];
    "rmsnorm.cu": [rmsnorm_forward, rmsnorm_backward] [rmsnorm_backward_weight];
    "rope.cu": [rope] [];
    "swiglu.cu": [swiglu_forward, swiglu_backward] [];
}
