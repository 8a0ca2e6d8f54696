//! Every kernel, loaded once: a field for each entry point of `kernels/*.cu`, of the same name.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction};

use super::{failed, images};
use crate::backend::BackendError;

macro_rules! kernels {
    ($($source:literal: $($name:ident),+;)+) => {
        /// The entry points.
        #[allow(missing_docs, reason = "documented in the headers of kernels/*.cu")]
        #[derive(Debug)]
        pub struct Kernels { $($(pub $name: CudaFunction,)+)+ }

        impl Kernels {
            /// Loads all modules onto a device.
            pub fn load(context: &Arc<CudaContext>) -> Result<Self, BackendError> {
                $(
                    let module = images::load(context, $source)?;
                    $(
                        let function = module.load_function(stringify!($name));
                        let $name = function.map_err(failed(concat!("loading ", stringify!($name))))?;
                    )+
                )+
                Ok(Self { $($($name,)+)+ })
            }
        }
    };
}

kernels! {
    "adamw.cu": adamw_f32;
    "attention.cu": attention_forward_f32, attention_backward_query_f32, attention_backward_delta_f32,
        attention_backward_key_f32;
    "embedding.cu": embedding_forward_f32, embedding_backward_f32;
    "gather.cu": gather_rows_f32, scatter_rows_f32, copy_rows_f32;
    "gradient_norm.cu": gradient_norm_partial_f32, gradient_norm_finish;
    "head.cu": target_logits_f32, head_rows_f32;
    "rmsnorm.cu": rmsnorm_forward_f32, rmsnorm_backward_f32, rmsnorm_backward_weight_f32;
    "rope.cu": rope_f32;
    "swiglu.cu": swiglu_forward_f32, swiglu_backward_f32;
}
