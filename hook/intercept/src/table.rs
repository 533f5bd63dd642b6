//! Every function that GreenBoost intercepts, as data.
//!
//! Everything about a function stands in one row: library, handler, exported symbols (each with the version in which it
//! appeared), arguments. From the rows are generated the originals (`crate::slot`), the detours and the exports (in the
//! crate of the handlers), the shims of the loader's functions, and the tests that compare what is declared with what is
//! caught.
//!
//! * `driver`: reached through every layer. The version is CUDA's from which `cuGetProcAddress` answers with exactly this
//!   symbol (11030 is 11.3); of NVML the driver's branch, by the oldest release notes that have it.
//! * `called`: reached through the GOT entries of their callers, once somebody asks for them
//!   (`crate::inject::want`). Versions are year and month of ggml's commit, or the C library's (2270 is 2.27).
//! * `loader`: reached through every layer, by a shim that keeps their caller. Versions are the C library's.
//!
//! Symbols of a row share their arguments and their handler. `_ptds` and `_ptsz` twins are the forms of
//! programs compiled for per-thread default streams; which twins exist is irregular and listed as the driver
//! has them. The 32-bit forms (`cuMemAlloc` without `_v2`) are absent on purpose: they are another ABI.
//!
//! A handler has the original function before the row's arguments:
//! `unsafe fn alloc(original: Original, dptr: *mut CUdeviceptr, bytes: usize) -> Handled`. One of a `called` row makes the
//! call itself and answers with its result. A `loader` row ends in a condition: whether a call is reason enough to decide
//! whether this process is ours, before our constructor has run.

/// Calls `$emit!` with all rows.
#[macro_export]
macro_rules! functions {
    ($emit:ident) => {
        $emit! {
            driver {
                // Resolution. The two forms differ in their number of arguments: the wrong one writes through garbage.
                Cuda resolve::get_proc_address [cuGetProcAddress@11030]
                    (symbol: *const c_char, pfn: *mut *const c_void, version: c_int, flags: u64);
                Cuda resolve::get_proc_address_v2 [cuGetProcAddress_v2@12000]
                    (symbol: *const c_char, pfn: *mut *const c_void, version: c_int, flags: u64, found: *mut c_int);

                // Allocation.
                Cuda alloc::alloc [cuMemAlloc_v2@3020] (dptr: *mut CUdeviceptr, bytes: usize);
                Cuda alloc::alloc_pitch [cuMemAllocPitch_v2@3020]
                    (dptr: *mut CUdeviceptr, pitch: *mut usize, width: usize, height: usize, element: c_uint);
                Cuda alloc::free [cuMemFree_v2@3020] (dptr: CUdeviceptr);
                Cuda alloc::alloc_async [cuMemAllocAsync@11020] (dptr: *mut CUdeviceptr, bytes: usize, stream: CUstream);
                Cuda alloc::alloc_async_per_thread [cuMemAllocAsync_ptsz@11020]
                    (dptr: *mut CUdeviceptr, bytes: usize, stream: CUstream);
                Cuda alloc::alloc_from_pool_async [cuMemAllocFromPoolAsync@11020]
                    (dptr: *mut CUdeviceptr, bytes: usize, pool: CUmemoryPool, stream: CUstream);
                Cuda alloc::alloc_from_pool_async_per_thread [cuMemAllocFromPoolAsync_ptsz@11020]
                    (dptr: *mut CUdeviceptr, bytes: usize, pool: CUmemoryPool, stream: CUstream);
                Cuda alloc::free_async [cuMemFreeAsync@11020] (dptr: CUdeviceptr, stream: CUstream);
                Cuda alloc::free_async_per_thread [cuMemFreeAsync_ptsz@11020] (dptr: CUdeviceptr, stream: CUstream);

                // Pools: which device an allocation from one is on.
                Cuda alloc::create_pool [cuMemPoolCreate@11020] (pool: *mut CUmemoryPool, prop: *const PoolProp);
                Cuda alloc::destroy_pool [cuMemPoolDestroy@11020] (pool: CUmemoryPool);

                // Physical memory that the program maps itself (ggml's scratch pool).
                Cuda vmm::create [cuMemCreate@10020]
                    (handle: *mut CUmemGenericAllocationHandle, bytes: usize, prop: *const AllocationProp, flags: u64);
                Cuda vmm::release [cuMemRelease@10020] (handle: CUmemGenericAllocationHandle);
                Cuda vmm::retain [cuMemRetainAllocationHandle@11000]
                    (handle: *mut CUmemGenericAllocationHandle, at: *mut c_void);
                Cuda vmm::set_access [cuMemSetAccess@10020]
                    (at: CUdeviceptr, bytes: usize, descs: *const AccessDesc, count: usize);
                Cuda vmm::get_access [cuMemGetAccess@10020]
                    (flags: *mut u64, location: *const Location, at: CUdeviceptr);
                Cuda vmm::free_addresses [cuMemAddressFree@10020] (at: CUdeviceptr, bytes: usize);
                Cuda vmm::map [cuMemMap@10020]
                    (at: CUdeviceptr, bytes: usize, offset: usize, handle: CUmemGenericAllocationHandle, flags: u64);
                Cuda vmm::unmap [cuMemUnmap@10020] (at: CUdeviceptr, bytes: usize);

                // What memory there is, and what an address belongs to.
                Cuda query::get_info [cuMemGetInfo_v2@3020] (free: *mut usize, total: *mut usize);
                Cuda query::total_mem [cuDeviceTotalMem_v2@3020] (bytes: *mut usize, device: CUdevice);
                Cuda query::address_range [cuMemGetAddressRange_v2@3020]
                    (base: *mut CUdeviceptr, bytes: *mut usize, dptr: CUdeviceptr);
                Cuda query::pointer_attribute [cuPointerGetAttribute@4000]
                    (data: *mut c_void, attribute: c_uint, dptr: CUdeviceptr);
                Cuda query::pointer_attributes [cuPointerGetAttributes@7000]
                    (count: c_uint, attributes: *const c_uint, data: *mut *mut c_void, dptr: CUdeviceptr);
                Cuda query::ipc_handle [cuIpcGetMemHandle@4010] (handle: *mut c_void, dptr: CUdeviceptr);
                Cuda query::pool_pointer [cuMemPoolExportPointer@11020] (data: *mut c_void, dptr: CUdeviceptr);
                Cuda query::range_handle [cuMemGetHandleForAddressRange@11070]
                    (handle: *mut c_void, dptr: CUdeviceptr, bytes: usize, kind: c_uint, flags: u64);
                Nvml nvml::memory_info [nvmlDeviceGetMemoryInfo@285] (device: *mut c_void, memory: *mut NvmlMemory);
                Nvml nvml::memory_info_v2 [nvmlDeviceGetMemoryInfo_v2@515] (device: *mut c_void, memory: *mut NvmlMemoryV2);

                // Copies.
                Cuda copy::unified [cuMemcpy@4000, cuMemcpy_ptds@7000] (dst: CUdeviceptr, src: CUdeviceptr, bytes: usize);
                Cuda copy::unified_async [cuMemcpyAsync@4000, cuMemcpyAsync_ptsz@7000]
                    (dst: CUdeviceptr, src: CUdeviceptr, bytes: usize, stream: CUstream);
                Cuda copy::peer [cuMemcpyPeer@4000, cuMemcpyPeer_ptds@7000]
                    (dst: CUdeviceptr, dst_context: CUcontext, src: CUdeviceptr, src_context: CUcontext, bytes: usize);
                Cuda copy::peer_async [cuMemcpyPeerAsync@4000, cuMemcpyPeerAsync_ptsz@7000]
                    (dst: CUdeviceptr, dst_context: CUcontext, src: CUdeviceptr, src_context: CUcontext, bytes: usize,
                     stream: CUstream);
                Cuda copy::host_to_device [cuMemcpyHtoD_v2@3020] (dst: CUdeviceptr, src: *const c_void, bytes: usize);
                Cuda copy::host_to_device_per_thread [cuMemcpyHtoD_v2_ptds@7000]
                    (dst: CUdeviceptr, src: *const c_void, bytes: usize);
                Cuda copy::host_to_device_async [cuMemcpyHtoDAsync_v2@3020]
                    (dst: CUdeviceptr, src: *const c_void, bytes: usize, stream: CUstream);
                Cuda copy::host_to_device_async_per_thread [cuMemcpyHtoDAsync_v2_ptsz@7000]
                    (dst: CUdeviceptr, src: *const c_void, bytes: usize, stream: CUstream);
                Cuda copy::device_to_host [cuMemcpyDtoH_v2@3020, cuMemcpyDtoH_v2_ptds@7000]
                    (dst: *mut c_void, src: CUdeviceptr, bytes: usize);
                Cuda copy::device_to_host_async [cuMemcpyDtoHAsync_v2@3020, cuMemcpyDtoHAsync_v2_ptsz@7000]
                    (dst: *mut c_void, src: CUdeviceptr, bytes: usize, stream: CUstream);
                Cuda copy::unified [cuMemcpyDtoD_v2@3020, cuMemcpyDtoD_v2_ptds@7000]
                    (dst: CUdeviceptr, src: CUdeviceptr, bytes: usize);
                Cuda copy::unified_async [cuMemcpyDtoDAsync_v2@3020, cuMemcpyDtoDAsync_v2_ptsz@7000]
                    (dst: CUdeviceptr, src: CUdeviceptr, bytes: usize, stream: CUstream);
                Cuda copy::from_array [cuMemcpyAtoD_v2@3020, cuMemcpyAtoD_v2_ptds@7000]
                    (dst: CUdeviceptr, array: *mut c_void, offset: usize, bytes: usize);
                Cuda copy::to_array [cuMemcpyDtoA_v2@3020, cuMemcpyDtoA_v2_ptds@7000]
                    (array: *mut c_void, offset: usize, src: CUdeviceptr, bytes: usize);
                Cuda copy2d::copy [
                    cuMemcpy2D_v2@3020, cuMemcpy2D_v2_ptds@7000, cuMemcpy2DUnaligned_v2@3020,
                    cuMemcpy2DUnaligned_v2_ptds@7000
                ] (copy: *const Memcpy2D);
                Cuda copy2d::copy_async [cuMemcpy2DAsync_v2@3020, cuMemcpy2DAsync_v2_ptsz@7000]
                    (copy: *const Memcpy2D, stream: CUstream);
                Cuda copy3d::copy [cuMemcpy3D_v2@3020, cuMemcpy3D_v2_ptds@7000, cuMemcpy3DPeer@4000, cuMemcpy3DPeer_ptds@7000]
                    (copy: *const Memcpy3D);
                Cuda copy3d::copy_async [
                    cuMemcpy3DAsync_v2@3020, cuMemcpy3DAsync_v2_ptsz@7000, cuMemcpy3DPeerAsync@4000,
                    cuMemcpy3DPeerAsync_ptsz@7000
                ] (copy: *const Memcpy3D, stream: CUstream);
                Cuda batch::batch [cuMemcpyBatchAsync@12080, cuMemcpyBatchAsync_ptsz@12080]
                    (dsts: *mut CUdeviceptr, srcs: *mut CUdeviceptr, sizes: *mut usize, count: usize,
                     attributes: *mut c_void, attribute_starts: *mut usize, attribute_count: usize,
                     failed: *mut usize, stream: CUstream);
                Cuda batch::batch_v2 [cuMemcpyBatchAsync_v2@13000, cuMemcpyBatchAsync_v2_ptsz@13000]
                    (dsts: *mut CUdeviceptr, srcs: *mut CUdeviceptr, sizes: *mut usize, count: usize,
                     attributes: *mut c_void, attribute_starts: *mut usize, attribute_count: usize, stream: CUstream);
                Cuda batch3d::batch [cuMemcpy3DBatchAsync@12080, cuMemcpy3DBatchAsync_ptsz@12080]
                    (count: usize, list: *mut BoxCopy, failed: *mut usize, flags: u64, stream: CUstream);
                Cuda batch3d::batch_v2 [cuMemcpy3DBatchAsync_v2@13000, cuMemcpy3DBatchAsync_v2_ptsz@13000]
                    (count: usize, list: *mut BoxCopy, flags: u64, stream: CUstream);

                // Fills.
                Cuda memset::d8 [cuMemsetD8_v2@3020, cuMemsetD8_v2_ptds@7000] (dst: CUdeviceptr, value: u8, count: usize);
                Cuda memset::d16 [cuMemsetD16_v2@3020, cuMemsetD16_v2_ptds@7000]
                    (dst: CUdeviceptr, value: u16, count: usize);
                Cuda memset::d32 [cuMemsetD32_v2@3020, cuMemsetD32_v2_ptds@7000]
                    (dst: CUdeviceptr, value: u32, count: usize);
                Cuda memset::d8_async [cuMemsetD8Async@3020, cuMemsetD8Async_ptsz@7000]
                    (dst: CUdeviceptr, value: u8, count: usize, stream: CUstream);
                Cuda memset::d16_async [cuMemsetD16Async@3020, cuMemsetD16Async_ptsz@7000]
                    (dst: CUdeviceptr, value: u16, count: usize, stream: CUstream);
                Cuda memset::d32_async [cuMemsetD32Async@3020, cuMemsetD32Async_ptsz@7000]
                    (dst: CUdeviceptr, value: u32, count: usize, stream: CUstream);
                Cuda memset::d2d8 [cuMemsetD2D8_v2@3020, cuMemsetD2D8_v2_ptds@7000]
                    (dst: CUdeviceptr, pitch: usize, value: u8, width: usize, height: usize);
                Cuda memset::d2d16 [cuMemsetD2D16_v2@3020, cuMemsetD2D16_v2_ptds@7000]
                    (dst: CUdeviceptr, pitch: usize, value: u16, width: usize, height: usize);
                Cuda memset::d2d32 [cuMemsetD2D32_v2@3020, cuMemsetD2D32_v2_ptds@7000]
                    (dst: CUdeviceptr, pitch: usize, value: u32, width: usize, height: usize);
                Cuda memset::d2d8_async [cuMemsetD2D8Async@3020, cuMemsetD2D8Async_ptsz@7000]
                    (dst: CUdeviceptr, pitch: usize, value: u8, width: usize, height: usize, stream: CUstream);
                Cuda memset::d2d16_async [cuMemsetD2D16Async@3020, cuMemsetD2D16Async_ptsz@7000]
                    (dst: CUdeviceptr, pitch: usize, value: u16, width: usize, height: usize, stream: CUstream);
                Cuda memset::d2d32_async [cuMemsetD2D32Async@3020, cuMemsetD2D32Async_ptsz@7000]
                    (dst: CUdeviceptr, pitch: usize, value: u32, width: usize, height: usize, stream: CUstream);

                // Work. Memory must not move while it is being submitted.
                Cuda launch::kernel [cuLaunchKernel@4000, cuLaunchKernel_ptsz@7000]
                    (function: CUfunction, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint,
                     shared: c_uint, stream: CUstream, params: *mut *mut c_void, extra: *mut *mut c_void);
                Cuda launch::kernel_ex [cuLaunchKernelEx@11060, cuLaunchKernelEx_ptsz@11060]
                    (config: *const CUlaunchConfig, function: CUfunction, params: *mut *mut c_void,
                     extra: *mut *mut c_void);
                Cuda launch::cooperative [cuLaunchCooperativeKernel@9000, cuLaunchCooperativeKernel_ptsz@9000]
                    (function: CUfunction, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint,
                     shared: c_uint, stream: CUstream, params: *mut *mut c_void);
                Cuda launch::graph [cuGraphLaunch@10000] (exec: CUgraphExec, stream: CUstream);
                Cuda launch::graph_per_thread [cuGraphLaunch_ptsz@10000] (exec: CUgraphExec, stream: CUstream);

                // Capture: nothing may wait or move between these.
                Cuda capture::begin [cuStreamBeginCapture_v2@10010, cuStreamBeginCapture_v2_ptsz@10010]
                    (stream: CUstream, mode: c_uint);
                Cuda capture::begin_to_graph [cuStreamBeginCaptureToGraph@12030, cuStreamBeginCaptureToGraph_ptsz@12030]
                    (stream: CUstream, graph: CUgraph, dependencies: *const c_void, edges: *const c_void, count: usize,
                     mode: c_uint);
                Cuda capture::end [cuStreamEndCapture@10000, cuStreamEndCapture_ptsz@10000]
                    (stream: CUstream, graph: *mut CUgraph);
                Cuda capture::destroy [cuStreamDestroy_v2@4000] (stream: CUstream);

                // Ends of pinned memory, which weights are copied ahead from.
                Cuda host::free [cuMemFreeHost@2000] (at: *mut c_void);
                Cuda host::free [cuMemHostUnregister@4000] (at: *mut c_void);

                // Contexts whose work may use memory, and memory that is opened to other devices' work.
                Cuda context::create [cuCtxCreate_v2@3020] (context: *mut CUcontext, flags: c_uint, device: CUdevice);
                Cuda context::create_with_affinity [cuCtxCreate_v3@11040]
                    (context: *mut CUcontext, affinity: *mut c_void, count: c_int, flags: c_uint, device: CUdevice);
                Cuda context::create_with_params [cuCtxCreate_v4@12050]
                    (context: *mut CUcontext, params: *mut c_void, flags: c_uint, device: CUdevice);
                Cuda context::enable_peer [cuCtxEnablePeerAccess@4000] (peer: CUcontext, flags: c_uint);
                Cuda context::set_pool_access [cuMemPoolSetAccess@11020]
                    (pool: CUmemoryPool, access: *const AccessDesc, count: usize);

                // Ends of a context: what it held is gone.
                Cuda context::destroy [cuCtxDestroy_v2@4000] (context: CUcontext);
                Cuda context::reset_primary [cuDevicePrimaryCtxReset_v2@11000] (device: CUdevice);
                Cuda context::release_primary [cuDevicePrimaryCtxRelease_v2@11000] (device: CUdevice);

                // Ends of modules: their functions' handles may come back as others.
                Cuda context::unload_module [cuModuleUnload@2000] (module: CUmodule);
                Cuda context::unload_library [cuLibraryUnload@12000] (library: *mut c_void);

                // Calls in which the driver itself needs VRAM: room is made once, then they are tried again.
                Cuda retry::managed [cuMemAllocManaged@6000] (dptr: *mut CUdeviceptr, bytes: usize, flags: c_uint);
                Cuda retry::two [cuArrayCreate_v2@3020, cuArray3DCreate_v2@3020]
                    (array: *mut c_void, descriptor: *const c_void);
                Cuda retry::two [cuModuleLoadData@2000] (module: *mut c_void, image: *const c_void);
                Cuda retry::two [cuModuleLoad@2000] (module: *mut c_void, path: *const c_void);
                Cuda retry::two [cuModuleLoadFatBinary@2000] (module: *mut c_void, image: *const c_void);
                Cuda retry::load_ex [cuModuleLoadDataEx@2010]
                    (module: *mut c_void, image: *const c_void, count: c_uint, options: *mut c_void,
                     values: *mut *mut c_void);
                Cuda retry::load_library [cuLibraryLoadData@12000]
                    (library: *mut c_void, image: *const c_void, jit: *mut c_void, jit_values: *mut *mut c_void,
                     jit_count: c_uint, options: *mut c_void, values: *mut *mut c_void, count: c_uint);
                Cuda retry::create [cuStreamCreate@2000, cuEventCreate@2000] (created: *mut *mut c_void, flags: c_uint);
                Cuda retry::create_with_priority [cuStreamCreateWithPriority@5050]
                    (stream: *mut *mut c_void, flags: c_uint, priority: c_int);
                Cuda retry::instantiate [cuGraphInstantiateWithFlags@11040]
                    (exec: *mut CUgraphExec, graph: CUgraph, flags: u64);
                Cuda retry::instantiate_with_params [cuGraphInstantiateWithParams@12000, cuGraphInstantiateWithParams_ptsz@12000]
                    (exec: *mut CUgraphExec, graph: CUgraph, params: *mut c_void);
            }

            // What tells which tensors lie behind an address.
            called Tensors of Ggml {
                tensors::alloc [ggml_backend_tensor_alloc@202311]
                    (buffer: *mut c_void, tensor: *mut c_void, address: *mut c_void) -> c_int;
                tensors::set_usage [ggml_backend_buffer_set_usage@202401] (buffer: *mut c_void, usage: c_int);
                tensors::set [ggml_backend_tensor_set@202310]
                    (tensor: *mut c_void, data: *const c_void, offset: usize, bytes: usize);
                tensors::set_async [ggml_backend_tensor_set_async@202310]
                    (backend: *mut c_void, tensor: *mut c_void, data: *const c_void, offset: usize, bytes: usize);
                tensors::free_buffer [ggml_backend_buffer_free@202310] (buffer: *mut c_void);
            }

            // What a tensor takes; asked before there is memory for it.
            called TensorSizes of Ggml {
                congruent::kind_alloc_size [ggml_backend_buft_get_alloc_size@202311]
                    (kind: *mut c_void, tensor: *mut c_void) -> usize;
                congruent::buffer_alloc_size [ggml_backend_buffer_get_alloc_size@202310]
                    (buffer: *mut c_void, tensor: *mut c_void) -> usize;
            }

            // The program's own changes to its address space.
            called Mappings of CLibrary {
                follow::mmap [mmap@2020]
                    (at: *mut c_void, bytes: usize, rights: c_int, flags: c_int, fd: c_int, offset: i64) -> *mut c_void;
                follow::mmap [mmap64@2020]
                    (at: *mut c_void, bytes: usize, rights: c_int, flags: c_int, fd: c_int, offset: i64) -> *mut c_void;
                follow::munmap [munmap@2020] (at: *mut c_void, bytes: usize) -> c_int;
                // The last argument is there only with MREMAP_FIXED; else it is what the register holds.
                follow::mremap [mremap@2020]
                    (at: *mut c_void, bytes: usize, new_bytes: usize, flags: c_int, to: *mut c_void) -> *mut c_void;
                follow::mprotect [mprotect@2020] (at: *mut c_void, bytes: usize, rights: c_int) -> c_int;
                follow::pkey_mprotect [pkey_mprotect@2270]
                    (at: *mut c_void, bytes: usize, rights: c_int, key: c_int) -> c_int;
                follow::remap_file_pages [remap_file_pages@2030]
                    (at: *mut c_void, bytes: usize, rights: c_int, page: usize, flags: c_int) -> c_int;
            }

            // How symbols are looked up, and when objects come and go.
            loader {
                lookup::decide_dlsym [dlsym@2020] (handle: *mut c_void, name: *const c_char, unused: usize)
                    if lookup::may_be_ours(name);
                lookup::decide_dlvsym [dlvsym@2020] (handle: *mut c_void, name: *const c_char, version: *const c_char)
                    if lookup::may_be_ours(name);
                open::decide_dlopen [dlopen@2020] (file: *const c_char, mode: c_int, unused: usize) if true;
                open::decide_dlclose [dlclose@2020] (handle: *mut c_void, one: usize, two: usize) if true;
            }
        }
    };
}
