#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice_fuzz::remote::probe::fuzz::grpc_answer(data));
