//! Test equipment: a stand-in for libcuda and libcublasLt that executes PTX on the CPU.
