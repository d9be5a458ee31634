// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package initproc

// sysSeccomp is the number of seccomp(2), which package syscall has not.
const sysSeccomp = 317
