// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package install

// sysSeccomp is the number of seccomp(2), which package syscall does not have.
const sysSeccomp = 317
