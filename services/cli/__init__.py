"""The `sparkstack` command: it starts, stops and looks at the stack; services bring their own verbs."""
