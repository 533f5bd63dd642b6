/* SPDX-License-Identifier: GPL-2.0-only */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM greenboost

#if !defined(_GREENBOOST_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _GREENBOOST_TRACE_H

#include <linux/tracepoint.h>

TRACE_EVENT(gb_alloc,
	TP_PROTO(u64 id, u64 bytes, unsigned long ready, unsigned long small),
	TP_ARGS(id, bytes, ready, small),
	TP_STRUCT__entry(
		__field(u64, id)
		__field(u64, bytes)
		__field(unsigned long, ready)
		__field(unsigned long, small)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->bytes = bytes;
		__entry->ready = ready;
		__entry->small = small;
	),
	TP_printk("id=%llu bytes=%llu ready_chunks=%lu small_pages=%lu",
		  __entry->id, __entry->bytes, __entry->ready, __entry->small)
);

TRACE_EVENT(gb_free,
	TP_PROTO(u64 id, u64 bytes),
	TP_ARGS(id, bytes),
	TP_STRUCT__entry(
		__field(u64, id)
		__field(u64, bytes)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->bytes = bytes;
	),
	TP_printk("id=%llu bytes=%llu", __entry->id, __entry->bytes)
);

TRACE_EVENT(gb_level,
	TP_PROTO(u32 from, u32 to, u32 causes, u64 available),
	TP_ARGS(from, to, causes, available),
	TP_STRUCT__entry(
		__field(u32, from)
		__field(u32, to)
		__field(u32, causes)
		__field(u64, available)
	),
	TP_fast_assign(
		__entry->from = from;
		__entry->to = to;
		__entry->causes = causes;
		__entry->available = available;
	),
	TP_printk("from=%u to=%u causes=%#x available=%llu", __entry->from,
		  __entry->to, __entry->causes, __entry->available)
);

#endif /* _GREENBOOST_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
