//! What the driver says about functions and kernels to someone who redirects their pointers.

mod common;
use common::*;
use cuda::function::*;
use cuda::module_calls::{cuKernelGetFunction, cuLibraryGetKernel, cuLibraryLoadData};
use std::ffi::{CStr, CString, c_char, c_void};

fn null<T>() -> cuda::edge::Out<T> {
    cuda::edge::Out::from(std::ptr::null_mut())
}

/// Offsets and sizes, asked for one by one until there are no more.
fn parameters(ask: impl Fn(usize, cuda::edge::Out<usize>, cuda::edge::Out<usize>) -> u32) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    loop {
        let (mut offset, mut size) = (0, 0);
        match ask(found.len(), out(&mut offset), out(&mut size)) {
            0 => found.push((offset, size)),
            code => {
                assert_eq!(code, 1);
                return found;
            }
        }
    }
}

fn text(name: *const c_char) -> String {
    // SAFETY: the driver's string lives as long as the function.
    unsafe { CStr::from_ptr(name) }.to_str().expect("ASCII").to_string()
}

const MATVEC: [(usize, usize); 5] = [(0, 8), (8, 8), (16, 8), (24, 4), (28, 4)];

isolated! {
    a_function_tells_its_name_and_its_parameters [] {
        start();
        let matvec = function("gb_matvec_q8");
        assert_eq!(parameters(|index, offset, size| cuFuncGetParamInfo(matvec, index, offset, size)), MATVEC);
        // The size may be left out, the offset not.
        ok(cuFuncGetParamInfo(matvec, 0, out(&mut 0), null()));
        assert_eq!(cuFuncGetParamInfo(matvec, 0, null(), out(&mut 0)), 1);
        let mut name = std::ptr::null();
        ok(cuFuncGetName(out(&mut name), matvec));
        assert_eq!(text(name), "gb_matvec_q8");
        assert_eq!(cuFuncGetName(null(), matvec), 1);
        assert_eq!((cuFuncGetName(out(&mut name), 77), cuFuncGetParamInfo(77, 0, out(&mut 0), null())), (400, 400));
    }

    a_struct_passed_by_value_is_one_parameter [] {
        start();
        let (from, sum, stream) = (alloc(8), alloc(8), stream());
        let checksum = function("gb_checksum_struct");
        assert_eq!(parameters(|index, offset, size| cuFuncGetParamInfo(checksum, index, offset, size)), [(0, 24)]);
        ok(upload(from, &[3, 4]));
        ok(synchronize());
        let all = [from, 2, sum];
        let pointers = [std::ptr::from_ref(&all).cast::<c_void>()];
        let none = cuda::edge::In::from(std::ptr::null());
        ok(cuda::launch_calls::cuLaunchKernel(checksum, 1, 1, 1, 32, 1, 1, 0, stream, input(&pointers), none));
        ok(cuda::stream_calls::cuStreamSynchronize(stream));
        assert_eq!(download(sum, 1), [3 + 3 * 4]);
    }

    a_librarys_kernel_tells_the_same_and_can_be_launched [] {
        start();
        let image = CString::new(PTX).expect("no zero in it");
        let none = cuda::edge::In::from(std::ptr::null::<u32>());
        let values = cuda::edge::In::from(std::ptr::null::<c_void>());
        let image = cuda::edge::In::from(image.as_ptr().cast::<c_void>());
        let library = got(|out| cuLibraryLoadData(out, image, none, values, 0, none, values, 0));
        let kernel = |name: &CStr| got(|out| cuLibraryGetKernel(out, library, cuda::edge::In::from(name.as_ptr())));
        let (matvec, fill) = (kernel(c"gb_matvec_q8"), kernel(c"gb_fill_u32"));
        assert_eq!(parameters(|index, offset, size| cuKernelGetParamInfo(matvec, index, offset, size)), MATVEC);
        let mut name = std::ptr::null();
        ok(cuKernelGetName(out(&mut name), matvec));
        assert_eq!(text(name), "gb_matvec_q8");
        let function = got(|out| cuKernelGetFunction(out, matvec));
        assert_eq!(parameters(|index, offset, size| cuFuncGetParamInfo(function, index, offset, size)), MATVEC);
        // A launch takes either handle, a question about a function does not.
        let (at, stream) = (alloc(8), stream());
        ok(launch(fill, stream, &[at, 2, 3]));
        ok(cuda::stream_calls::cuStreamSynchronize(stream));
        assert_eq!(download(at, 2), [3, 4]);
        assert_eq!(cuKernelGetParamInfo(function, 0, out(&mut 0), null()), 400);
    }
}
