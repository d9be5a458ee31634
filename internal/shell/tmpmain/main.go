package main

import (
	"context"
	"os"

	"build.stacker.dev/internal/shell"
)

func main() { os.Exit(shell.Main(context.Background(), os.Args, os.Stdin, os.Stdout, os.Stderr)) }
