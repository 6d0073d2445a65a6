"""The report judges and draws what files say, and says what is not there."""
import math

import pytest

pytest.importorskip("matplotlib", reason="needs python3-matplotlib")

import report
import report_parts as parts


def test_verdicts_take_two_standard_errors():
    assert parts.larger(1.3, 1, 0.1) == parts.SHOWN
    assert parts.larger(1.15, 1, 0.1) == parts.OPEN
    assert parts.larger(0.7, 1, 0.1) == parts.REFUTED
    assert parts.larger(9, 1, math.nan) == parts.OPEN


def write_corruption(folder, debiased_nll):
    """Three seeds at severities 0 and 5: the plain network and two low-rank posteriors."""
    folder.mkdir(parents=True)
    rows = ["seed,structure,variant,strategy,prior,severity,images,accuracy,nll,ece"]
    auroc = ["seed,structure,variant,strategy,prior,severity,score,auroc"]
    fits = ["seed,structure,variant,strategy,fit_seconds,prior_tuned,trace,residual_share,milliseconds_per_image"]
    for seed in range(3):
        for method, priors, nll in (("low_rank,layerwise,biased", ("n_beta", "tuned"), 1.0), ("low_rank,layerwise,debiased", ("n_beta", "tuned"),
                                    debiased_nll), ("map,,", ("",), 0.8)):  # fmt: skip
            fits.append(f"{seed},{method},1,2,3,4,5")
            for prior in priors:
                for severity in (0, 5):
                    rows.append(f"{seed},{method},{prior},{severity},30,0.9,{nll + 0.1 * severity + 0.01 * seed},0.05")
                auroc.append(f"{seed},{method},{prior},5,entropy,0.{7 + seed % 2}")
    kinds = ["seed,structure,variant,strategy,prior,corruption,images,accuracy,nll", "0,map,,,,fog,30,0.75,1.5", "1,map,,,,fog,30,0.85,1.7"]
    (folder / "corruption_kinds.csv").write_text("\n".join(kinds) + "\n")
    (folder / "corruption.csv").write_text("\n".join(rows) + "\n")
    (folder / "corruption_auroc.csv").write_text("\n".join(auroc) + "\n")
    (folder / "corruption_fits.csv").write_text("\n".join(fits) + "\n")


@pytest.mark.parametrize("debiased_nll, verdict", [(0.7, parts.SHOWN), (1.2, parts.REFUTED)])
def test_judges_paired_differences(tmp_path, debiased_nll, verdict):
    write_corruption(tmp_path / "net", debiased_nll)
    with open(tmp_path / "net" / "corruption.csv", "a") as file:  # a seed that is not complete does not count
        file.write("3,low_rank,layerwise,biased,n_beta,5,30,0.9,99,0.05\n")
    text = report.report(tmp_path)
    line = next(line for line in text.splitlines() if "with a residual, debiased low-rank curvature" in line)
    assert verdict in line and f"{abs(1 - debiased_nll):.3f} ± .000" in line and "3 seeds" in line
    assert (tmp_path / "net" / "corruption.svg").stat().st_size < parts.LARGEST_FIGURE
    assert "| fog | 0.800 ± .050 | 1.600 ± .100 |" in text
    assert "| plain network (MAP) | 1.310 ± .006 |" in text
    assert "not measured" in next(line for line in text.splitlines() if "Its relative standard deviation" in line)


def test_judges_bias(tmp_path):
    folder = tmp_path / "net"
    folder.mkdir()
    c1 = ["network,b1,index,repetitions,on_b1,on_d,ratio,ratio_se", "net,32,1,3,3,1,3,0.2", "net,32,2,3,2,1,2,0.2", "net,32,9,3,1,2,0.5,0.1"]
    c2 = ["network,b1,b2,index,repetitions,on_b2,on_d,ratio,ratio_se"] + [f"net,32,256,{i},3,1,1,{r},0.05" for i, r in ((1, 1.02), (2, 0.97), (9, 1.2))]
    c3 = ["network,b1,index,b2,draws,relative_sd,predicted", "net,32,9,64,8,0.5,0.5"]  # of one example 4, so of 1,600 0.1
    (folder / "c3_relative_sd.csv").write_text("\n".join(c3) + "\n")
    (folder / "settings.csv").write_text("key,value\nd_size,1600\n")
    (folder / "c1_bias_ratio.csv").write_text("\n".join(c1) + "\n")
    (folder / "c2_debiased_ratio.csv").write_text("\n".join(c2) + "\n")
    text = report.report(tmp_path)
    lines = text.splitlines()
    assert "**shown** (\\|B1\\| = 32: 3.00 ± .20)" in next(line for line in lines if "along the first direction" in line)
    assert "**shown** (\\|B1\\| = 32, i = 9: 0.50 ± .11)" in next(line for line in lines if "along the last directions" in line)
    assert "100 % of 3 within two standard errors, median ratio 1.02" in next(line for line in lines if "On an independent batch" in line)


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match="no results here"):
        report.report(tmp_path)


def test_shows_every_training_run(tmp_path):
    for name, accuracy in (("A", 0.5), ("B", 0.8)):
        folder = tmp_path / "training" / name
        folder.mkdir(parents=True)
        columns = "step,epoch,seconds,learning_rate,train_loss,validation_loss,validation_accuracy"
        (folder / "metrics.csv").write_text(f"{columns}\n10,1,60,0.1,2,2.1,0.2\n20,2,120,0.1,1,1.5,{accuracy}\n")
    (tmp_path / "training" / "B" / "test.csv").write_text("step,images,test_loss,test_accuracy\n10,9,3,0.1\n20,9,1.25,0.75\n")
    text = report.report(tmp_path)
    assert "| A | 2 | 2.0 | 1.000 | 1.500 | 50.00 % |  |  |" in text
    assert "| B | 2 | 2.0 | 1.000 | 1.500 | 80.00 % | 1.250 | 75.00 % |" in text
    assert (tmp_path / "training" / "training.svg").stat().st_size < parts.LARGEST_FIGURE
