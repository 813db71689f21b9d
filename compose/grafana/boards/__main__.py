"""Write the dashboards' files."""

from compose.grafana.boards import BOARDS, FOLDER, path_of, text_of

FOLDER.mkdir(exist_ok=True)
for board in BOARDS:
    path_of(board).write_text(text_of(board))
