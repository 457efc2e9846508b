import pytest
import sys
from pathlib import Path
from udslab import UdsError
from udslab.testing import assert_untouched
S=[sys.executable, "-c", "import udslab,sys,time\nwith udslab.listen(sys.argv[1]) as l:\n print('on',flush=True)\n time.sleep(100)", "{socket}"]
def test_x(uds_obstacle, make_uds_process):
    with assert_untouched(uds_obstacle.path), pytest.raises(UdsError) as e:
        make_uds_process(S, uds_obstacle.path)
    print(e.value)
