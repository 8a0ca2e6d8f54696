//! What can be reproduced of the figures of ASFT's paper (arXiv 2409.10571) on any machine and with any model.
//!
//! - [`plane`]: losses and their gradients over the two probabilities, the stuff of its theorems and of figure 1.

pub mod plane;
