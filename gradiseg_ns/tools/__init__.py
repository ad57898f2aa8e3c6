"""What every room may use and that knows none of them: errors, whole files, the terminal, contact sheets.

In: paths, sentences, pictures. Out: files that are whole or not there, lines on the terminal. May not: import another room, or torch
and nerfstudio before they are needed (`gradiseg --help` imports this room).
"""
