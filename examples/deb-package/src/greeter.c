/* SPDX-FileCopyrightText: The stacker authors
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

int main(int argc, char **argv)
{
	printf("hello, %s\n", argc > 1 ? argv[1] : "package");
	return 0;
}
